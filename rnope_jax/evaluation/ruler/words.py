"""Words of our own for keys and word lists."""

import math
import random
from collections.abc import Iterator


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ADJECTIVES = _split("""
    able aged amber ample ancient autumn azure bare bitter blank bleak blunt bold brass brave brief bright brisk
    broad broken bronze brown calm careful cheap cheerful chilly civil clean clear clever close cloudy coarse
    cold common cool copper coral crisp crooked curious curly damp daring dark dear deep dense distant dizzy
    double dusty eager early eastern easy empty even exact faint fair famous fancy fast final fine firm flat
    fond formal free fresh frosty gentle giant glad golden grand grave gray great green grim handy happy hard
    hasty heavy hidden hollow honest humble icy idle inner ivory jolly keen kind large late lazy lean level
    light little lively local lonely long loose loud low loyal lucky mellow mild modest muddy narrow neat
    nervous new nimble noble northern odd old open outer pale patient plain polite prompt proud pure quick quiet
    rapid rare raw ready rough round royal rusty salty secret sharp shiny short silent silver simple sleepy
    slender slow small smooth sober soft solid southern spare steady steep stern still stout strange strict
    strong sturdy sudden sunny sweet swift tall tame tender thick thin tidy tiny tired true upper vast violet
    warm weary western wet white wide wild wise wooden young
""")

NOUNS = _split("""
    acorn anchor apple apron arch arrow attic badge baker ballad bamboo banner barn barrel basin basket beacon
    bean bear beetle bell bench berry bird blanket blossom boat bonnet book boot bottle boulder bowl branch
    brick bridge broom brush bucket button cabin cable camel canal candle canoe canvas canyon carpet cart castle
    cave cedar cellar chain chair chalk cherry chest chimney circle cliff cloak clock cloud clover coach coast
    cobbler comet compass cottage cradle crane crate creek cricket crown cup curtain daisy deer desert diary
    dock donkey door dove dragon drawer drum duck eagle easel egg elbow elm engine falcon farmer feather fence
    fern ferry fiddle field finger flag flame flask flute forest fork fountain fox frog garden gate ghost
    glacier globe glove goat goose grape guitar hammer harbor harp hat hawk hedge hen heron hill hinge honey
    hood hook horn horse house inn island jacket jar jewel jug juniper kettle key king kitchen kite kitten knot
    ladder lake lamp lantern lark leaf lemon letter library lily lion lizard locket loom maple marble market
    mast meadow melon mill miner mirror mitten monkey moon moss moth mountain mule mushroom needle nest net nut
    oak oar ocean olive onion orchard otter owl ox paddle palace paper parrot pasture path peach pear pebble
    pelican pen pepper piano pie pigeon pillow pilot pine pipe planet plank plate plow plum pocket pond pony
    poplar porch potter prairie puddle pumpkin quail quarry quill rabbit raft rail raven reed ribbon ridge ring
    river robin rocket roof rope rose sack saddle sail salmon scarf school seal seed shelf shell shepherd ship
    shore shovel skater sled smith snail sparrow spider spoon spring spruce stable star statue stone storm stove
    straw street swan table tailor teapot tent thimble thistle thread throne tiger torch tower trail train tray
    tree trumpet tulip tunnel turtle valley vase village vine violin wagon wall walnut water weaver well whale
    wheat wheel whistle willow window wolf wren yarn zebra
""")

VERBS = _split("""
    accept admire agree allow answer arrive ask bake balance begin believe belong borrow build buy call carry
    catch choose climb collect compare count cover cross dance decide deliver describe dig discover divide draw
    dream drive earn enjoy enter explain explore fetch fill find finish fly follow forget gather give grow guess
    help hide hope hunt imagine invite join jump laugh learn lift listen measure melt mend notice obey offer
    paint plant play pour praise promise protect pull push reach read receive remember repair repeat reply rest
    return save search send settle share sing skip smile solve speak stretch study swim teach travel trust try
    visit wait walk wander watch whisper win wish wonder write
""")

#: Single words, without repetition.
WORDS = tuple(dict.fromkeys((*NOUNS, *ADJECTIVES, *VERBS)))


def compound(rng: random.Random) -> str:
    """An adjective and a noun, such as "quiet-harbor"."""
    return f"{rng.choice(ADJECTIVES)}-{rng.choice(NOUNS)}"


def distinct(rng: random.Random) -> Iterator[str]:
    """Words in mixed order, none twice: first all single ones, then all compounds."""
    yield from rng.sample(WORDS, len(WORDS))
    total = len(ADJECTIVES) * len(NOUNS)
    start, step = rng.randrange(total), rng.randrange(total // 4, total // 2)
    while math.gcd(step, total) > 1:  # steps of this length reach every compound once
        step += 1
    for place in range(total):
        adjective, noun = divmod((start + place * step) % total, len(NOUNS))
        yield f"{ADJECTIVES[adjective]}-{NOUNS[noun]}"
