"""The words of the demo corpus as data: lists for its questions, families for its events.

Words under `dev` are never used for training. Lists are separated by commas. In families, ";"
separates families, "," the related members of a family, and "/" the synonyms for one member.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """One list, or one set of families, for each of the two splits."""

    train: str
    dev: str

    def of(self, split: str) -> str:
        """The words of a split, "train" or "dev"."""
        return self.train if split == "train" else self.dev


@dataclass(frozen=True)
class Domain:
    """Actions, and objects that fit each of them."""

    actions: str
    objects: Words


# --- paraphrase ----------------------------------------------------------------------------------

TOWNS = Words(
    train="Oxford, Bristol, Leeds, York, Derby, Exeter, Lincoln, Dover, Norwich, Carlisle, Bath, "
    "Hull",
    dev="Chester, Durham, Brighton, Plymouth, Winchester, Canterbury",
)
LANGUAGES = Words(
    train="French, German, Spanish, Italian, Greek, Russian, Dutch, Polish, Arabic, Turkish",
    dev="English, Latin, Japanese, Chinese, Hebrew, Portuguese",
)
CHORES = Words(
    train="water the lawn, sweep the path, paint the fence, clean the gutters, wash the windows, "
    "trim the hedge, feed the chickens, rake the leaves, stack the firewood, sort the tools",
    dev="mop the floor, iron the shirts, bake the bread, dust the shelves, peel the potatoes",
)
PEOPLE = Words(
    train="landlord, tenant, plumber, gardener, lawyer, manager, driver, nurse, teacher, mayor, "
    "farmer, coach",
    dev="tailor, barber, butcher, captain, painter, librarian",
)
NAMES = Words(
    train="Anna, Ben, Clara, David, Emma, Frank, Grace, Henry, Irene, Jack, Laura, Martin",
    dev="Sarah, Thomas, Julia, Peter, Alice, George",
)
GOODS = Words(
    train="apples, cherries, chairs, lamps, boots, gloves, candles, blankets, carpets, tulips",
    dev="pears, melons, benches, mirrors, sandals, roses",
)
FOODS = Words(
    train="butter, oil, honey, sugar, cream, yogurt, jam, maple syrup",
    dev="margarine, lard, molasses, milk, buttermilk",
)
TREATS = Words(train="eggs, flour, yeast, butter, nuts, oats", dev="cheese, raisins, cinnamon")
DISHES = Words(
    train="pancakes, muffins, waffles, dumplings, cookies", dev="pretzels, biscuits, noodles"
)
BOXES = Words(
    train="box, basket, suitcase, blanket, tray, cushion, newspaper, folder, crate, towel",
    dev="book, pillow, hamper, plate, rug, trunk",
)
GADGETS = Words(
    train="printer, radio, heater, scanner, fan, washing machine, camera, toaster, computer",
    dev="television, freezer, phone, dishwasher, projector",
)
PETS = Words(
    train="cat, hamster, ferret, pony, guinea pig, turtle", dev="kitten, goldfish, canary, lamb"
)
PLANTS = Words(
    train="moss, clover, ivy, mint, ferns, daisies, thistles, bamboo", dev="grass, violets, nettles"
)
GROUPS = Words(
    train="members, students, families, guests, beginners, locals",
    dev="children, adults, veterans, neighbors",
)
MEALS = Words(
    train="soup, stew, sauce, gravy, goulash, chili", dev="relish, dressing, stuffing, dip"
)
ANIMALS = Words(
    train="wolves, foxes, cats, owls, bears, snakes, crows, rats",
    dev="lions, cheetahs, tigers, leopards, jackals, hyenas",
)

ACTORS = Words(
    train="doctor/physician, nurse; cook/chef, baker; teacher/instructor, student/pupil; "
    "sailor/seaman, fisherman; lawyer/attorney, judge; child/kid, teenager; actor/performer, "
    "singer/vocalist; farmer, gardener",
    dev="author/writer, poet; cobbler/shoemaker, tailor; firefighter/fireman, policeman; "
    "tourist/sightseer, guide",
)
PLACES = Words(
    train="in the garden/in the yard, in the park; in the forest/in the woods, in the meadow; "
    "in the shop/in the store, at the market; "
    "at the harbor/at the port, on the beach/on the shore; "
    "near the school, near the library",
    dev="on the street/on the road, on the square; in the barn, in the stable; "
    "near the river/close to the river, near the lake",
)
# There are few times and actions, so both splits share them.
TIMES = (
    "at dawn/at sunrise, early in the morning; at dusk/at sunset, late in the evening; "
    "on Monday, on Tuesday; in the fall/in autumn, in winter; last week/a week ago, "
    "last month/a month ago"
)

# Actions fit every object of their domain. Each is written in the base form (as in "did not fix")
# and in the past, which is also the form of the passive.
DOMAINS = (
    Domain(
        actions="repair repaired/fix fixed, restore restored; clean cleaned/wash washed, "
        "polish polished; buy bought/purchase purchased, rent rented; "
        "photograph photographed, sketch sketched",
        objects=Words(
            train="car/automobile, van; bicycle/bike, scooter; boat, canoe; sofa/couch, armchair; "
            "clock, lamp",
            dev="wagon/cart, carriage; violin/fiddle, guitar; stool, bench",
        ),
    ),
    Domain(
        actions="prepare prepared/make made, warm warmed/heat heated; taste tasted/sample "
        "sampled, finish finished; burn burned, spoil spoiled/ruin ruined",
        objects=Words(
            train="soup/broth, stew; pie/tart, cake; omelet, pancake; sausage, steak",
            dev="pudding, custard; ham, bacon; porridge/oatmeal, rice",
        ),
    ),
    Domain(
        actions="study studied/examine examined, copy copied; lose lost/misplace misplaced, "
        "drop dropped; find found/discover discovered, borrow borrowed; "
        "sign signed, stamp stamped",
        objects=Words(
            train="letter, postcard; newspaper/paper, magazine; poster/placard, map; "
            "contract/agreement, report",
            dev="diary/journal, notebook; ticket, passport; painting/picture, drawing",
        ),
    ),
    Domain(
        actions="feed fed, brush brushed/groom groomed; rescue rescued/save saved, catch "
        "caught/capture captured; follow followed/trail trailed, chase chased/pursue pursued",
        objects=Words(
            train="dog/hound, cat; horse, donkey; goat, sheep; duck, goose",
            dev="rabbit/bunny, squirrel; cow, calf; pigeon, sparrow",
        ),
    ),
)

FORMS = (
    "The {actor} {past} the {object} {place} {time}.",
    "{time}, the {actor} {past} the {object} {place}.",
    "{place}, the {actor} {past} the {object} {time}.",
    "The {object} was {past} by the {actor} {place} {time}.",
    "{time}, the {object} was {past} {place} by the {actor}.",
    "It was the {actor} who {past} the {object} {place} {time}.",
)
DENIED_FORMS = (
    "The {actor} did not {base} the {object} {place} {time}.",
    "{time}, the {actor} did not {base} the {object} {place}.",
    "The {object} was not {past} by the {actor} {place} {time}.",
    "It is not true that the {actor} {past} the {object} {place} {time}.",
)
