"""English sentences of the demo corpus."""

from kvlab.demo.phrases import Event, Language, Scenario

THINGS = (
    Event("+", "{S} buys {k} more {o} at the market", "After buying more"),
    Event("+", "{f} brings {k} {o} as a present", "With the present from {f}"),
    Event("+", "{S} finds another {k} {o} behind the {p}", "After finding some"),
    Event("-", "{S} gives {k} {o} to {f}", "After giving some to {f}"),
    Event("-", "{k} of the {o} get lost on the way", "Without the lost ones"),
    Event("-", "{S} sells {k} {o} to a friendly customer", "After the sale"),
    Event("×", "{S} works hard until there are {k} times as many {o}", "Now there are more"),
    Event("÷", "{S} shares all the {o} equally among {k} people and keeps one share", "One share is"),
)
HOW_MANY = (
    "How many {o} does {N} have now?",
    "How many {o} are left in the end?",
    "What is the final number of {o}?",
    "Can you work out how many {o} {N} has at last?",
)


def things(name, start, objects, places, extra=()):
    return Scenario(name, "count", start, "{o}", HOW_MANY, THINGS + extra, objects, places)


SCENARIOS = (
    things(
        "fruit",
        "has {v} {o} in a {p}",
        ("apples", "pears", "lemons", "plums", "peaches", "cherries", "melons"),
        ("basket", "wooden box", "kitchen", "paper bag"),
        (Event("-", "{S} eats {k} {o} for lunch", "After lunch"),),
    ),
    things(
        "bakery",
        "bakes {v} {o} in the {p}",
        ("cookies", "muffins", "cakes", "rolls", "pies", "biscuits"),
        ("oven", "bakery", "kitchen", "stone hut"),
        (Event("+", "{S} puts {k} fresh {o} on the table", "With the fresh ones"),),
    ),
    things(
        "garden",
        "plants {v} {o} near the {p}",
        ("roses", "tulips", "trees", "beans", "carrots", "sunflowers"),
        ("fence", "old wall", "river", "house"),
        (Event("-", "the wind breaks {k} of the {o}", "After the storm"),),
    ),
    things(
        "desk",
        "keeps {v} {o} in the {p}",
        ("pencils", "stamps", "marbles", "coins", "cards", "buttons", "shells"),
        ("drawer", "school bag", "glass jar", "cupboard"),
        (Event("+", "{S} wins {k} {o} in a game", "After the game"),),
    ),
    things(
        "farm",
        "looks after {v} {o} in the {p}",
        ("sheep", "goats", "hens", "ducks", "horses", "rabbits"),
        ("field", "barn", "valley", "yard"),
        (Event("-", "{k} {o} run away at night", "After that night"),),
    ),
    Scenario(
        "bus",
        "count",
        "drives a bus with {v} passengers to the {p}",
        "passengers",
        (
            "How many passengers are on the bus now?",
            "How many people are still riding the bus?",
            "With how many passengers does {N} drive on?",
        ),
        (
            Event("+", "at the next stop {k} people get on", "After people get on"),
            Event("+", "{k} tourists climb in at the museum", "With the tourists"),
            Event("-", "{k} passengers get off at the bridge", "After the bridge"),
            Event("-", "{k} children leave the bus at school", "Without the children"),
            Event("×", "a big crowd comes and there are {k} times as many riders", "With the crowd"),
        ),
        places=("station", "airport", "city centre", "beach", "stadium"),
    ),
    Scenario(
        "score",
        "count",
        "starts a round of {o} with {v} points",
        "points",
        (
            "What is the final score of {N}?",
            "How many points does {N} have after the game?",
            "How many points are on the board now?",
        ),
        (
            Event("+", "{S} wins {k} points in one turn", "After winning"),
            Event("+", "a lucky card adds {k} points", "With the lucky card"),
            Event("-", "{S} loses {k} points for a mistake", "After the mistake"),
            Event("-", "{f} takes {k} points away", "After the move of {f}"),
            Event("×", "a bonus multiplies the score by {k}", "With the bonus"),
            Event("÷", "a bad card divides the score by {k}", "After the bad card"),
        ),
        objects=("darts", "bowling", "cards", "dominoes", "a quiz", "a board game"),
    ),
    Scenario(
        "savings",
        "money",
        "has ${v} in the {p}",
        "dollars",
        (
            "How much money does {N} have now?",
            "How many dollars are left?",
            "What amount of money remains for {N}?",
        ),
        (
            Event("+", "{S} earns ${k} by washing cars", "After the work"),
            Event("+", "grandmother sends ${k} in a letter", "With the letter"),
            Event("-", "{S} pays ${k} for a {o}", "After buying the {o}"),
            Event("-", "a ticket costs ${k}", "After the ticket"),
            Event("×", "the savings grow to {k} times the amount", "After growing"),
            Event("÷", "{S} splits the money evenly into {k} parts and takes one", "One part is"),
        ),
        objects=("sandwich", "book", "scarf", "hat", "toy train", "notebook"),
        places=("wallet", "bank", "piggy bank", "purse"),
    ),
    Scenario(
        "ribbon",
        "tenths",
        "owns a {o} that is {v} metres long",
        "metres",
        (
            "How long is the {o} now?",
            "What is the length of the {o} in metres?",
            "How many metres of {o} remain?",
        ),
        (
            Event("+", "{S} ties on another piece of {k} metres", "With the new piece"),
            Event("+", "{f} makes it longer by {k} metres", "After {f} helps"),
            Event("-", "{S} cuts off {k} metres for a present", "After the cut"),
            Event("-", "the dog bites off {k} metres", "After the dog"),
            Event("÷", "{S} cuts it into {k} equal pieces and keeps one", "One piece is"),
        ),
        objects=("ribbon", "rope", "cable", "string", "garden hose"),
    ),
    Scenario(
        "tank",
        "tenths",
        "fills a {o} with {v} litres of {p}",
        "litres",
        (
            "How many litres are in the {o} now?",
            "How much {p} is in the {o} at the end?",
            "What volume of {p} is left?",
        ),
        (
            Event("+", "{S} pours in {k} litres from a jug", "After pouring in"),
            Event("+", "{f} adds {k} litres more", "With the help of {f}"),
            Event("-", "{k} litres leak out through a hole", "After the leak"),
            Event("-", "the guests drink {k} litres", "After the guests drink"),
            Event("×", "in a larger {o} there are {k} times as many litres", "In the larger {o}"),
        ),
        objects=("tank", "bucket", "barrel", "bottle", "kettle"),
        places=("water", "milk", "juice", "lemonade", "tea"),
    ),
    Scenario(
        "journey",
        "clock",
        "leaves for the {p} at {v}",
        "",
        (
            "What time is it when {N} arrives?",
            "At what time does {N} reach the {p}?",
            "When does the journey end?",
        ),
        (
            Event("+", "the bus ride takes {k} minutes", "After the bus ride"),
            Event("+", "{S} waits {k} minutes for {f}", "After waiting"),
            Event("+", "{S} walks for {k} minutes along the river", "After the walk"),
            Event("+", "a stop at the shop costs {k} minutes", "After the stop"),
            Event("+", "the train needs {k} minutes", "After the train"),
        ),
        places=("office", "theatre", "market", "library", "hospital", "swimming pool"),
    ),
    Scenario(
        "hike",
        "count",
        "walks {v} kilometres on the way to the {p}",
        "kilometres",
        (
            "How many kilometres is that in total?",
            "What distance has {N} covered?",
            "How far is it, in kilometres?",
        ),
        (
            Event("+", "on the next day {S} walks {k} kilometres", "With the next day"),
            Event("+", "{S} takes the wrong path and adds {k} kilometres", "With the wrong path"),
            Event("-", "a shortcut saves {k} kilometres", "With the shortcut"),
            Event("×", "{S} does the same tour {k} times", "All tours together"),
        ),
        places=("lake", "castle", "mountain", "village", "waterfall"),
    ),
)

WOMEN = ("Anna", "Maria", "Lucy", "Emma", "Sofia", "Grace", "Nora", "Olivia", "Priya", "Hannah")
MEN = ("Tom", "Peter", "David", "Lucas", "Omar", "Henry", "Victor", "Samuel", "Kenji", "Felix")

ENGLISH = Language(
    code="en",
    people=(*((name, "she") for name in WOMEN), *((name, "he") for name in MEN)),
    context={
        "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
        "city": ("London", "Paris", "Boston", "Cairo", "Lima", "Oslo", "Toronto", "Sydney"),
        "job": ("teacher", "painter", "nurse", "engineer", "singer", "gardener", "farmer"),
        "month": ("January", "March", "April", "June", "July", "October", "December"),
    },
    openings=(
        "{N} {start}.",
        "On {day}, {N} {start}.",
        "{N} from {city} {start}.",
        "My neighbour {N} {start}.",
        "One morning in {month}, {N} the {job} {start}.",
        "This is a short story about {N}, who {start}.",
        "It is a quiet {day} in {city}, and {N} {start}.",
    ),
    links=("Then", "After that,", "Later,", "Next,", "A little later,"),
    styles={
        "terse": {"lead": "", "steps": "{eq}.", "close": ""},
        "numbered": {"lead": "", "steps": "Step {i}: {eq}.", "close": "The result is {r} {u}."},
        "story": {"lead": "We start with {v} {u}.", "steps": "{gloss}: {eq}.", "close": ""},
        "ordered": {
            "lead": "",
            "steps": ("First, {eq} {u}.", "Then {eq} {u}.", "Finally, {eq} {u}."),
            "close": "",
        },
        "spoken": {"lead": "At the beginning: {v}.", "steps": "{op} {k}, so {eq}.", "close": ""},
    },
    scenarios=SCENARIOS,
    marker="Answer: ",
    gap=" ",
    op_words={"+": "Add", "-": "Take away", "×": "Multiply by", "÷": "Divide by"},
)
