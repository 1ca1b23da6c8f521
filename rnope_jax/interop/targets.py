"""The programs that read our exports, and how each differs from transformers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rnope_jax.config import ModelConfig
from rnope_jax.interop.kinds import Attention, is_cohere1, refusal

#: The program for which an export is written; `--for` of `rnope export` has the same names.
TargetName = Literal["transformers", "vllm", "llama.cpp"]

_AS_TRANSFORMERS = (
    "`sliding_window` is {window} as transformers and llama.cpp count. vLLM from 0.29 on would see one "
    'key more: give it `hf_overrides={{"sliding_window": {less}}}`, or export for vllm.\n'
)


@dataclass(frozen=True, kw_only=True)
class Target:
    """A program that reads Hugging Face files; by default it does what transformers does."""

    extra_keys: int = 0
    """How many keys more than `sliding_window` says it lets a query of Cohere2 see."""
    norms_hybrids: bool = False
    """Whether its Cohere2 applies QK-norm."""
    add_bos: bool = True
    """Whether the tokenizer is made to put the start token in front of a text, as in training."""
    check: Callable[[ModelConfig, Attention], None] = lambda model, found: None
    """Raises `refusal` of what the architecture can say, but the program does not do."""
    window_note: str = _AS_TRANSFORMERS
    """On the model card: how `sliding_window` is meant. {written} stands in the file, {window} is meant."""
    reading: str = ""
    """On the model card: how to read the files."""


def _check_llama_cpp(model: ModelConfig, found: Attention) -> None:
    if model.num_heads * model.head_dim != model.d_model:
        raise refusal(
            f"heads of {model.head_dim} that do not make up the width in llama.cpp "
            f"({model.num_heads} x {model.head_dim} is not {model.d_model})",
            "--for transformers or --for vllm",
        )
    if not any(found.rope):
        raise refusal("NoPE in every layer in llama.cpp", "--for transformers or --for vllm")
    if found.qk_norm and model.num_layers < 64:
        raise refusal("QK-norm in fewer than 64 layers in llama.cpp", "--for transformers or --for vllm")


def _check_vllm(model: ModelConfig, found: Attention) -> None:
    if found.window == 1:
        raise refusal("a window of one key in vLLM", "--for transformers")


def _check_converter(model: ModelConfig, found: Attention) -> None:
    _check_llama_cpp(model, found)
    if not is_cohere1(found) and found.period != 4:
        raise refusal(
            "a pattern other than three window layers and one full layer in llama.cpp's own converter",
            "--gguf, which writes the pattern into the file",
        )


def check_gguf(model: ModelConfig, found: Attention) -> None:
    """Refuses what llama.cpp cannot compute from any file.

    Raises:
      UserError: with the reason and the nearest thing that works.
    """
    if found.qk_norm and not is_cohere1(found):
        raise refusal("QK-norm together with windows or NoPE layers", "--for vllm")
    _check_llama_cpp(model, found)


#: Everything that depends on the target of an export.
TARGETS: dict[TargetName, Target] = {
    "transformers": Target(
        reading="```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'model = AutoModelForCausalLM.from_pretrained(".")\n'
        'tokenizer = AutoTokenizer.from_pretrained(".")\n```\n',
    ),
    "vllm": Target(
        extra_keys=1,
        norms_hybrids=True,
        check=_check_vllm,
        window_note="`sliding_window` is {written}: vLLM from 0.29 on lets a query of this architecture see "
        "one key more, which makes the {window} that the model was trained with. Transformers and llama.cpp "
        "take the number as it stands and would see one key too few; export for them separately.\n",
    ),
    "llama.cpp": Target(
        # Its converter knows tokenizers by the ids that they give a text, as they were published.
        add_bos=False,
        check=_check_converter,
        reading="`convert_hf_to_gguf.py` makes a GGUF file of it if it knows the tokenizer; it knows published ones "
        "only, and `rnope export --gguf` does without it. The tokenizer is written as it came, or the converter would "
        "not know it. If it puts no start token in front, let llama.cpp do so, for training did: "
        "`--override-kv tokenizer.ggml.add_bos_token=bool:true`.\n",
    ),
}
