"""The questions of the demo corpus as data: each in several wordings, with its opposite."""

from dataclasses import dataclass

from comity.demo import corpus_words as words


@dataclass(frozen=True)
class Frame:
    """One question in several wordings, and the opposite question, which looks much like it.

    If `other` is empty, the opposite is the same question with {a} and {b} exchanged.
    """

    a: words.Words
    b: words.Words
    same: tuple[str, ...]
    other: tuple[str, ...] = ()
    dev_only: bool = False


FRAMES = (
    Frame(
        words.TOWNS,
        words.TOWNS,
        (
            "How do I get from {a} to {b}?",
            "How can I get to {b} from {a}?",
            "What is the best way to reach {b} if I start in {a}?",
            "Which road leads from {a} to {b}?",
        ),
    ),
    Frame(
        words.TOWNS,
        words.TOWNS,
        (
            "Does {a} lie north of {b}?",
            "Does {b} lie south of {a}?",
            "Is {a} farther north than {b}?",
            "Is {b} farther south than {a}?",
        ),
    ),
    Frame(
        words.LANGUAGES,
        words.LANGUAGES,
        (
            "Can you translate this letter from {a} into {b}?",
            "Could you put this {a} letter into {b} for me?",
            "This letter is in {a}; may I have it in {b}?",
            "Would you make a {b} version of this {a} letter?",
        ),
    ),
    Frame(
        words.CHORES,
        words.CHORES,
        (
            "Should I {a} before I {b}?",
            "Should I {b} after I {a}?",
            "Do I {a} first and {b} later?",
            "Is it better to {a} and only then {b}?",
        ),
    ),
    Frame(
        words.PEOPLE,
        words.PEOPLE,
        (
            "Does the {a} have to pay the {b}?",
            "Must the {b} be paid by the {a}?",
            "Does the {a} owe the {b} money?",
            "Is it the {a} who has to pay the {b}?",
        ),
    ),
    Frame(
        words.PEOPLE,
        words.PEOPLE,
        (
            "Did the {a} call the {b} last night?",
            "Was the {b} called by the {a} last night?",
            "Did the {b} get a call from the {a} last night?",
            "Was it the {a} who called the {b} last night?",
        ),
    ),
    Frame(
        words.PEOPLE,
        words.PEOPLE,
        (
            "Does the {a} give orders to the {b}?",
            "Does the {b} take orders from the {a}?",
            "Is the {a} in charge of the {b}?",
            "Does the {b} report to the {a}?",
        ),
    ),
    Frame(
        words.GOODS,
        words.GOODS,
        (
            "Are {a} cheaper than {b}?",
            "Are {b} more expensive than {a}?",
            "Do {a} cost less than {b}?",
            "Do {b} cost more than {a}?",
        ),
    ),
    Frame(
        words.FOODS,
        words.FOODS,
        (
            "Can I use {a} instead of {b}?",
            "Can I replace {b} with {a}?",
            "Can {a} take the place of {b}?",
            "Is it all right to leave out {b} and take {a}?",
        ),
    ),
    Frame(
        words.NAMES,
        words.NAMES,
        (
            "Did {a} borrow the car from {b}?",
            "Did {b} lend the car to {a}?",
            "Was the car lent to {a} by {b}?",
            "Was it {b} who lent {a} the car?",
        ),
    ),
    Frame(
        words.NAMES,
        words.NAMES,
        (
            "Is {a} older than {b}?",
            "Is {b} younger than {a}?",
            "Was {a} born before {b}?",
            "Was {b} born after {a}?",
        ),
    ),
    Frame(
        words.BOXES,
        words.BOXES,
        (
            "Please put the {a} on top of the {b}.",
            "Please put the {b} under the {a}.",
            "Could you lay the {a} on the {b}?",
            "I would like the {b} below the {a}, please.",
        ),
    ),
    Frame(
        words.NAMES,
        words.NAMES,
        (
            "Please send the bill to {a}, not to {b}.",
            "Please do not send the bill to {b}; send it to {a}.",
            "The bill should go to {a} rather than to {b}.",
            "Let {a} have the bill instead of {b}.",
        ),
    ),
    Frame(
        words.NAMES,
        words.NAMES,
        (
            "Did {a} beat {b} at chess?",
            "Did {b} lose to {a} at chess?",
            "Was {b} beaten by {a} at chess?",
            "Did {a} win the game of chess against {b}?",
        ),
    ),
    Frame(
        words.ANIMALS,
        words.ANIMALS,
        (
            "Do {a} hunt {b}?",
            "Are {b} hunted by {a}?",
            "Do {b} fall prey to {a}?",
            "Are {a} a danger to {b}?",
        ),
    ),
    Frame(
        words.GADGETS,
        words.TOWNS,
        (
            "Where can I buy a used {a} in {b}?",
            "Who sells used {a}s in {b}?",
            "I want to get a used {a}; which shop in {b} has one?",
            "Where do people in {b} go to find a used {a}?",
        ),
        (
            "Where can I sell a used {a} in {b}?",
            "Who buys used {a}s in {b}?",
            "I want to give up a used {a}; which shop in {b} takes one?",
            "Where do people in {b} go to get rid of a used {a}?",
        ),
    ),
    Frame(
        words.PETS,
        words.NAMES,
        (
            "How can {b} get the {a} to eat more?",
            "The {a} eats too little; what can {b} do?",
            "What should {b} do about a {a} that does not eat enough?",
            "The {a} needs bigger meals; how does {b} manage that?",
        ),
        (
            "How can {b} get the {a} to eat less?",
            "The {a} eats too much; what can {b} do?",
            "What should {b} do about a {a} that eats more than enough?",
            "The {a} needs smaller meals; how does {b} manage that?",
        ),
    ),
    Frame(
        words.TOWNS,
        words.TOWNS,
        (
            "When does the first bus from {a} to {b} leave?",
            "What time is the earliest bus to {b} from {a}?",
            "When can I leave {a} if I take the first bus to {b}?",
        ),
        (
            "When does the last bus from {a} to {b} leave?",
            "What time is the latest bus to {b} from {a}?",
            "When can I leave {a} if I take the last bus to {b}?",
        ),
    ),
    Frame(
        words.DISHES,
        words.TREATS,
        (
            "How do I make {a} without {b}?",
            "Is there a recipe for {a} that leaves out {b}?",
            "I have no {b}; how do I make {a}?",
            "How are {a} made if {b} must not go in?",
        ),
        (
            "How do I make {a} with {b}?",
            "Is there a recipe for {a} that calls for {b}?",
            "I have some {b}; how do I make {a}?",
            "How are {a} made if {b} must go in?",
        ),
    ),
    Frame(
        words.GROUPS,
        words.TOWNS,
        (
            "Is the pool in {b} open only to {a}?",
            "Is the pool in {b} closed to everyone but {a}?",
            "Are {a} the only people who may use the pool in {b}?",
        ),
        (
            "Is the pool in {b} closed only to {a}?",
            "Is the pool in {b} open to everyone but {a}?",
            "Are {a} the only people who may not use the pool in {b}?",
        ),
    ),
    Frame(
        words.PLANTS,
        words.NAMES,
        (
            "How can {b} get {a} to grow in the garden?",
            "What should {b} do to have more {a} in the garden?",
            "The garden has not enough {a}; what can {b} do?",
        ),
        (
            "How can {b} stop {a} from growing in the garden?",
            "What should {b} do to have less {a} in the garden?",
            "The garden has more than enough {a}; what can {b} do?",
        ),
    ),
    Frame(
        words.GADGETS,
        words.NAMES,
        (
            "How does {b} switch on the {a}?",
            "How can {b} turn the {a} on?",
            "What does {b} press to start the {a}?",
            "The {a} should be running; how does {b} make it go?",
        ),
        (
            "How does {b} switch off the {a}?",
            "How can {b} turn the {a} off?",
            "What does {b} press to stop the {a}?",
            "The {a} should not be running; how does {b} make it stop?",
        ),
    ),
    Frame(
        words.NAMES,
        words.CHORES,
        (
            "Please remind {a} to {b}.",
            "Do not let {a} forget to {b}.",
            "Make sure that {a} remembers to {b}.",
            "Somebody should tell {a} to {b}.",
        ),
        (
            "Please remind {a} not to {b}.",
            "Do not let {a} {b}.",
            "Make sure that {a} does not {b}.",
            "Somebody should tell {a} not to {b}.",
        ),
    ),
    Frame(
        words.MEALS,
        words.NAMES,
        (
            "The {a} is too salty; how can {b} save it?",
            "How can {b} make the {a} less salty?",
            "Can {b} do anything about too much salt in the {a}?",
            "How can {b} rescue a {a} with too much salt?",
        ),
        (
            "The {a} is not salty enough; how can {b} save it?",
            "How can {b} make the {a} more salty?",
            "Can {b} do anything about too little salt in the {a}?",
            "How can {b} rescue a {a} with too little salt?",
        ),
    ),
    Frame(
        words.ANIMALS,
        words.ANIMALS,
        (
            "Can {a} run faster than {b}?",
            "Are {b} slower than {a}?",
            "Would {a} win a race against {b}?",
        ),
        dev_only=True,
    ),
    Frame(
        words.BOXES,
        words.BOXES,
        (
            "Is the {a} heavier than the {b}?",
            "Is the {b} lighter than the {a}?",
            "Does the {b} weigh less than the {a}?",
        ),
        dev_only=True,
    ),
    Frame(
        words.GADGETS,
        words.NAMES,
        (
            "Why did {b} agree to repair the {a}?",
            "Why did {b} say yes to repairing the {a}?",
            "What made {b} willing to repair the {a}?",
        ),
        (
            "Why did {b} refuse to repair the {a}?",
            "Why did {b} say no to repairing the {a}?",
            "What made {b} unwilling to repair the {a}?",
        ),
        dev_only=True,
    ),
)
