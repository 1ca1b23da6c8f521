"""A GGUF file for llama.cpp, written directly: any order of layers, and a tokenizer of one's own.

llama.cpp's converter knows only one layer in four as full, and only tokenizers that it has met. The
file format says both: the types of the layers in an array, the tokenizer by its tokens and merges.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rnope_jax.errors import UserError
from rnope_jax.files import publish, work_directory
from rnope_jax.interop.exporting import Exported, check_room, export_dtype
from rnope_jax.interop.kinds import UNBOUNDED, attention, is_cohere1
from rnope_jax.interop.names import GGUF
from rnope_jax.interop.source import Source, open_source, planned
from rnope_jax.interop.targets import check_gguf
from rnope_jax.interop.tokenizer_files import copy_tokenizer, token_ids
from rnope_jax.interop.verify import verify_gguf
from rnope_jax.weights import DTYPES

#: What files are called where OUT is a directory.
_NAME = "model.gguf"

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False}
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)

#: How text is cut before merging, by the name that llama.cpp has for it.
_CUTS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [{**_BYTE_LEVEL, "use_regex": True}],
    "command-r": [{"type": "Digits", "individual_digits": True}, {**_BYTE_LEVEL, "use_regex": True}],
    "llama-bpe": [
        {"type": "Split", "pattern": {"Regex": _WORDS}, "behavior": "Isolated", "invert": False},
        {**_BYTE_LEVEL, "use_regex": False},
    ],
}


def export_gguf(
    run: Path,
    out: Path,
    *,
    dtype: str | None = None,
    step: int | None = None,
    check: bool = True,
    trust_checkpoint: bool = False,
    report: Callable[[str], None] = print,
) -> Exported:
    """Writes a model as one GGUF file.

    Args:
      run: a run, or a directory of Hugging Face files.
      out: the file to make, or a directory to make for it.
      dtype: as for `export`; norms stay float32, as llama.cpp wants them.
      step: of which checkpoint; None takes the newest.
      check: load the result with llama.cpp in another process and compare logits.
      trust_checkpoint: do not compare the files of the checkpoint with its integrity file first.
      report: told what is done.

    Raises:
      UserError: if llama.cpp cannot compute this model or cut text as its tokenizer does, `out`
        exists, or the disk is too small.
    """
    try:
        import gguf
    except ImportError as error:
        raise UserError("the gguf package is not installed: pip install 'rnope-jax[interop]'") from error
    source = open_source(run, step, verify=not trust_checkpoint)
    found = attention(source.model)
    check_gguf(source.model, found)
    if source.tokenizer is None:
        raise UserError(f"{run}: a GGUF file holds the tokenizer, and there is none with this model")
    kept = export_dtype(source, dtype)
    # Norms are never rounded: they are small, and llama.cpp wants float32.
    pairs = zip(planned(source, GGUF, kept), planned(source, GGUF, DTYPES["float32"]), strict=True)
    tensors = [tensor if len(tensor.shape) > 1 else exact for tensor, exact in pairs]
    size = sum(tensor.bytes for tensor in tensors)
    target = out if out.suffix == ".gguf" else out / _NAME
    check_room(out, size)
    with work_directory(out) as aside:
        writer = gguf.GGUFWriter(aside / _NAME, "command-r" if is_cohere1(found) else "cohere2")
        _add_model(gguf, writer, source, kept)
        _add_tokenizer(gguf, writer, source, aside)
        kinds = gguf.GGMLQuantizationType
        codes = {DTYPES["float32"]: kinds.F32, DTYPES["float16"]: kinds.F16, DTYPES["bfloat16"]: kinds.BF16}
        for tensor in tensors:
            code = codes[tensor.dtype]
            writer.add_tensor_info(tensor.name, tensor.shape, tensor.dtype, tensor.bytes, raw_dtype=code)
        report(f"writing {size / 1e9:.3g} GB of weights to {target}")
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            values = np.concatenate(list(tensor.values()))
            writer.write_tensor_data(np.ascontiguousarray(values).view(np.uint8))
        writer.close()
        difference = verify_gguf(aside / _NAME, source, kept, report) if check else None
        publish(aside / _NAME, target)
    return Exported(target, (target.name,), size, difference)


def _add_model(gguf: Any, writer: Any, source: Source, dtype: np.dtype | None) -> None:
    model, found = source.model, attention(source.model)
    writer.add_name(source.config.name if source.config else source.path.absolute().name)
    writer.add_block_count(model.num_layers)
    writer.add_context_length(source.context)
    writer.add_embedding_length(model.d_model)
    writer.add_feed_forward_length(model.d_ff)
    writer.add_head_count(model.num_heads)
    writer.add_head_count_kv(model.num_kv_heads)
    writer.add_key_length(model.head_dim)
    writer.add_value_length(model.head_dim)
    writer.add_layer_norm_eps(model.norm_eps)
    writer.add_logit_scale(model.logit_factor)
    writer.add_vocab_size(model.vocab_size)
    writer.add_rope_freq_base(found.theta)
    writer.add_rope_dimension_count(model.head_dim)
    writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)
    types = gguf.LlamaFileType
    names = {"float16": types.MOSTLY_F16, "bfloat16": types.MOSTLY_BF16}
    writer.add_file_type(names.get((dtype or source.weights.dtype("embedding")).name, types.ALL_F32))
    if not is_cohere1(found):
        writer.add_sliding_window(found.window or UNBOUNDED)
        writer.add_sliding_window_pattern(list(found.rope))


def _add_tokenizer(gguf: Any, writer: Any, source: Source, aside: Path) -> None:
    """Tokens, their types and merges, from the tokenizer.json."""
    assert source.tokenizer is not None
    loaded = copy_tokenizer(source.tokenizer, aside, add_bos=False)
    # As the library writes it: files of other ages leave out what has its default.
    data = json.loads(loaded.backend.to_str())
    cut = _cut(data, source.tokenizer)
    if (size := loaded.vocab_size) > source.model.vocab_size:
        raise UserError(f"{source.tokenizer}: {size} tokens, but the model has {source.model.vocab_size}")
    kinds = gguf.TokenType
    tokens = [f"[PAD{i}]" for i in range(source.model.vocab_size)]
    types = [kinds.UNUSED] * source.model.vocab_size
    for token, number in data["model"]["vocab"].items():
        tokens[number], types[number] = token, kinds.NORMAL
    for added in data.get("added_tokens", ()):
        tokens[added["id"]] = added["content"]
        types[added["id"]] = kinds.CONTROL if added["special"] else kinds.USER_DEFINED
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in data["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(cut)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    ids = token_ids(loaded, aside)
    writer.add_bos_token_id(ids["bos_token_id"])
    writer.add_eos_token_id(ids["eos_token_id"])
    if "pad_token_id" in ids:
        writer.add_pad_token_id(ids["pad_token_id"])
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (aside / name).unlink(missing_ok=True)


def _cut(data: dict[str, Any], source: Path) -> str:
    """llama.cpp's name for the way in which a tokenizer cuts text.

    Raises:
      UserError: if it has none.
    """
    model = data["model"]
    if model["type"] != "BPE" or model.get("byte_fallback"):
        raise UserError(f"{source}: llama.cpp reads byte-level BPE from here, not {model['type']}")
    affixes = ("continuing_subword_prefix", "end_of_word_suffix")
    if changes := [name for name in affixes if model.get(name)] + _normalizers(data.get("normalizer")):
        raise UserError(
            f"{source}: llama.cpp does not know {', '.join(changes)} of this tokenizer. "
            "What works: --for transformers or --for vllm"
        )
    before = data.get("pre_tokenizer") or {}
    steps = [
        {key: value for key, value in step.items() if key != "trim_offsets"}
        for step in before.get("pretokenizers", [before])
    ]
    for name, cut in _CUTS.items():
        # Of these, llama.cpp takes words that are tokens whole for Llama only; training makes no difference to that,
        # for merges lead to every token that it has found.
        if steps == cut and (name == "llama-bpe" or not model.get("ignore_merges")):
            return name
    raise UserError(
        f"{source}: llama.cpp has no name for the way in which this tokenizer cuts text "
        f"({', '.join(str(step.get('type')) for step in steps)}); it has for {', '.join(_CUTS)}. "
        "What works: --for transformers or --for vllm"
    )


def _normalizers(normalizer: dict[str, Any] | None) -> list[str]:
    """What is done to text before it is cut, apart from NFC, which changes no text that is composed already."""
    if normalizer is None:
        return []
    steps = normalizer.get("normalizers", [normalizer])
    return [step["type"] for step in steps if step["type"] != "NFC"]
