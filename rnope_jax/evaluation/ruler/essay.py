"""A haystack of our own, for when no text is given."""

ESSAY = """
Most people who keep a workshop will tell you that they did not plan to. They bought one tool for one job, found that
the job was pleasant, and looked for another. After some years there is a bench by the window, a vice that belonged to
somebody's uncle, and a row of jars with screws sorted by length. Nobody needs so many screws. The pleasure lies in
knowing where they are.

I have thought for a long time about why order of this kind is so satisfying. It is not the same as neatness. A neat
room can be arranged by a stranger in an afternoon, and the owner will not find anything in it for a week. A workshop in
good order is a record of everything that its owner has tried to do. The files hang where the hand looks for them. The
glue stands low, because it once fell from a high shelf. Every place has a reason, and the reasons are small stories.

Maps are like that too. The first maps of our valley were drawn by a surveyor who walked it with a chain and two boys to
carry the ends. He wrote down the width of every stream, although streams change, and he left out the hills, because
nobody could own them. A later map has the hills and leaves out the wells. Neither of them is wrong. Each answers the
questions of the people who paid for it, and to read an old map well you must first guess what those questions were.

When the railway came, a third map was made, and it is the one that most of us have in our heads today. It is straight
where the land is crooked. Two villages that lie a morning's walk apart are neighbours on it, since the train does not
stop between them, and a hamlet that can be seen from the church tower is far away, at the end of another line. People
who have never drawn a map believe that distance is a fact. It is closer to a habit.

My neighbour keeps bees, and she says that a hive is the only household she knows in which everybody can say what
happened today. The bees come home and dance the way to the clover. What they tell is not where the clover is, but how
to fly there, with the sun on which side and for how long. If the sun moves, the dance moves with it. She finds this
more sensible than addresses. An address is of use only to someone who already knows the town.

She also says that one should never hurry near a hive. There is a speed at which the bees do not notice you, and it is a
little slower than the speed at which you get anything done. So she does less than she could. She lifts one frame and
looks at it, sets it back, and waits. In ten minutes she has seen four frames. In an hour she has seen what she came to
see, and nobody has been stung. I have tried to work that way at the bench, and it is harder than it sounds.

Slow work has a poor reputation because it is confused with idle work. The two can be told apart by what is left at the
end. I once watched a man build a dry wall along the upper pasture. He had a heap of stones and no mortar, and for most
of the morning he seemed to do nothing at all. He turned a stone over, put it down, and took another. But no stone that
he had placed was ever taken up again. By evening there was a wall, and it is still there. The fence that we put up in a
day on the other side has been mended every spring.

It would be easy to draw the wrong lesson from this. The wall is not better because it took longer. It took longer
because the man was solving the whole puzzle while his hands were on one piece of it. Had he known another way to see
where each stone belonged, he could have built it in an hour. What we admire in a craftsman is not patience as such. It
is that he would rather think than lift a stone twice.

There is a kind of letter that nobody writes any more, and I miss it. It was sent without a reason. It began with the
weather, went on to the health of the animals, and came in the middle of the third page to the one thing that the writer
had wanted to say. You could not skim such a letter, for you did not know what to look for. The news that an aunt was to
be married stood between the price of oats and a complaint about the roof. You had to read all of it, and remember all
of it, and only then could you tell what had mattered.

I found a box of these letters last winter, tied with string. They are from a schoolteacher to her brother at sea. She
wrote every second Sunday for nine years. For the first year I could make little of them. Names came up that meant
nothing to me, and quarrels whose beginning I had missed. Then, somewhere in the second year, the names turned into
people. I knew who would be late and who would pay. When a certain door was left open in the sixth year, I understood at
once why it made her angry, because she had shut it herself in the first.

That is what a long text can do and a short one cannot. It does not only tell you more. It teaches you how to read it,
and by the end you are a different reader from the one who began. The sentences near the end can be short, since so much
has been agreed between the two of you. A stranger who opens the box at the last letter finds nine lines about a garden
gate. I found the best thing in the box.

There is a bridge below the mill where the children fish. They catch very little. The water is clear and the fish can
see them, and they talk the whole time. But each of them knows the river better than I do. They know that the pool under
the alder is deep and the one beside it is not, that the current turns back on itself behind the third pillar, and that
a stick thrown in at the mill takes as long to reach the bridge as it takes to eat an apple. Nobody taught them. They
have simply been there, day after day, paying attention to something else.

Perhaps that is the best reason for a bench by the window. I do not get much done at it, to be honest. A chair was
mended in March and a drawer in May. But from where I stand I can see the lane, the hives, the upper pasture and a piece
of the river, and in the course of a year everything that happens in the valley goes by. I look up from the vice and
somebody is carrying a ladder. I look up again and the swallows have come. Then I pick up the file, which hangs where
the hand looks for it, and go on.
""".strip()
