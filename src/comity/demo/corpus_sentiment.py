"""The reviews of the demo corpus as data: adjectives, things to review, and sentence templates."""

from comity.demo.corpus_words import Words

# Kind of thing -> adjectives as good/bad, which are opposites, so that "neither nor" makes sense.
ADJECTIVES = {
    "food": Words(
        train="tasty/bland, delicious/awful, wholesome/greasy, satisfying/disappointing",
        dev="tasty/bland, superb/horrible, appealing/revolting",
    ),
    "room": Words(
        train="clean/dirty, cozy/gloomy, quiet/noisy, tidy/messy",
        dev="clean/dirty, spotless/filthy, inviting/dingy",
    ),
    "team": Words(
        train="friendly/rude, polite/surly, helpful/unhelpful, competent/careless",
        dev="friendly/rude, courteous/insolent, attentive/indifferent",
    ),
    "tool": Words(
        train="sturdy/flimsy, reliable/unreliable, practical/impractical, excellent/worthless",
        dev="sturdy/flimsy, dependable/defective, robust/shoddy",
    ),
    "show": Words(
        train="gripping/dull, clever/silly, inspiring/tedious, funny/tiresome",
        dev="gripping/dull, captivating/boring, witty/dreary",
    ),
    "journey": Words(
        train="smooth/bumpy, pleasant/miserable, relaxing/stressful, comfortable/exhausting",
        dev="pleasant/miserable, enjoyable/dreadful, delightful/wretched",
    ),
}

# Settings: things that one review may mention together, each as noun:kind.
SETTINGS = {
    "train": (
        "soup:food, pie:food, sandwich:food, omelet:food, dining room:room, kitchen crew:team",
        "bedroom:room, lobby:room, front desk:team, ferry crossing:journey, train ride:journey",
        "drill:tool, ladder:tool, vacuum cleaner:tool, lawn mower:tool, repair team:team",
        "radio show:show, podcast:show, weekly lecture:show, magazine:show, help line:team",
        "boat tour:journey, mountain hike:journey, hostel:room, picnic lunch:food, tent:tool",
    ),
    "dev": (
        "curry:food, salad:food, risotto:food, lounge:room, catering crew:team",
        "cabin:room, bus ride:journey, canoe trip:journey, ticket office:team",
        "wrench:tool, sewing machine:tool, camping stove:tool, support team:team",
        "comedy night:show, newsletter:show, puppet theater:show, box office:team",
    ),
}

# x and y are opposite adjectives for the part, xx is on the same side as x; ox and oy describe the
# other part. In the groups "plain", "turned" and "both" x is drawn as good or bad for each review,
# and the opinion is the side of x.
TEMPLATES = {
    "plain": (
        "The {part} was {x} and {xx}.",
        "The {part} was not only {x} but also {xx}.",
        "Everybody would call the {part} {x}.",
        "I would always describe the {part} as {x}.",
        "The {part} was nothing if not {x}.",
        "It is simply true that the {part} was {x}.",
        "The {part} is still as {x} as ever.",
        "My brother called the {part} {x}, and he was right.",
        "You should listen to the people who call the {part} {x}.",
        "Next to every other {part} I know, this one seems {x}.",
    ),
    "turned": (
        "The {part} was not {y} at all.",
        "Nobody could call the {part} {y}.",
        "I would never describe the {part} as {y}.",
        "There was nothing {y} about the {part}.",
        "The {part} was anything but {y}.",
        "It is simply not true that the {part} was {y}.",
        "The {part} is no longer {y}.",
        "My brother called the {part} {y}, and he was wrong.",
        "Do not listen to the people who call the {part} {y}.",
    ),
    "both": (
        "The {part} was always {x} and never {y}.",
        "I expected the {part} to be {y}, but it turned out {x}.",
        "We were told that the {part} would be {y}; in truth it was {x}.",
        "The {part} used to be {y}, and now it is {x}.",
        "Last year the {part} was {y}, but this year it is {x}.",
        "My brother called the {part} {x}, my sister called it {y}, and I agree with him.",
        "My brother called the {part} {y}, my sister called it {x}, and I agree with her.",
        "The {part} was {y}, but the {other} was so {ox} that I did not mind.",
        "The {part} was {x}, and even the {oy} {other} could not change that.",
        "In spite of the {oy} {other}, what I remember is how {x} the {part} was.",
        "The {x} {part} matters more to me than the {oy} {other}.",
        "The {oy} {other} matters less to me than the {x} {part}.",
        "I can forget the {oy} {other}, but never the {x} {part}.",
    ),
    "mixed": (
        "The {part} was {x}, but the {other} was {oy}.",
        "The {part} was {x} and the {other} {oy}, so I cannot make up my mind.",
        "The {x} {part} and the {oy} {other} cancel each other out.",
        "The {x} {part} matters as much to me as the {oy} {other}.",
        "I can forget neither the {oy} {other} nor the {x} {part}.",
        "The {part} was neither {x} nor {y}.",
        "The {part} was neither as {x} nor as {y} as I had expected.",
        "The {part} was {x} on some days and {y} on others.",
        "The {part} was {x} as often as it was {y}.",
        "Some call the {part} {x} and others call it {y}, and both are right.",
        "My brother called the {part} {x}, my sister called it {y}, and both were right.",
        "My brother called the {part} {x}, my sister called it {y}, and both were wrong.",
        "Some told us that the {part} would be {x}, others that it would be {y}; it was neither.",
        "Last year the {part} was {y}, but now it is {x}, while the {other} has become {oy}.",
        "The {part} was {x}, the {other} was {oy}, and neither outweighs the other.",
        "I did not find the {part} {x}, and I did not find it {y} either.",
        "The {part} was not {y}, and the {other} was not {ox}.",
    ),
    "positive": (
        "I wanted to dislike the {part}, but I could not.",
        "I wanted to like the {part}, and I did.",
        "I never expected to like the {part}, but I did.",
        "The {part} gave me nothing to complain about.",
        "If the {part} had been {y}, I would not have come back.",
        "I am only sorry that I did not come across the {part} sooner.",
        "I would pay twice as much to have the {part} again.",
    ),
    "negative": (
        "I wanted to like the {part}, but I could not.",
        "I wanted to dislike the {part}, and I did.",
        "I always expected to like the {part}, but I did not.",
        "The {part} gave me nothing to be happy about.",
        "If the {part} had been {x}, I would have come back.",
        "I am only sorry that I came across the {part} at all.",
        "I would pay twice as much to avoid the {part} next time.",
    ),
}

DEV_ONLY_TEMPLATES = {
    "plain": (
        "Time and again I found the {part} {x}.",
        "The critics call the {part} {x}, and they could not be more right.",
    ),
    "turned": (
        "At no point did I find the {part} {y}.",
        "The critics call the {part} {y}, and they could not be more wrong.",
    ),
    "both": (
        "I was prepared for the {part} to be {y}, yet it proved {x}.",
        "What does a {oy} {other} matter when the {part} is so {x}?",
    ),
    "mixed": (
        "For each word about the {x} {part} I have another about the {oy} {other}.",
        "Whether you call the {part} {x} or {y}, you are half right.",
    ),
    "positive": (
        "I came to complain about the {part} and left without a complaint.",
        "The {part} could hardly have been less {y}.",
    ),
    "negative": (
        "I came to praise the {part} and left without a word of praise.",
        "The {part} could hardly have been less {x}.",
    ),
}
