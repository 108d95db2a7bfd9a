"""The demo town: who lives there, who writes to it, what they talk about, and the words they use. Data for seed.py."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Person:
    username: str
    name: str
    role: Literal["admin", "agent", "member"] = "member"
    signs_in: bool = False  # has an address and the demo password
    talk: float = 1.0  # how much of the talking is theirs


PASSWORD = "password123"
PEOPLE = (
    Person("alice", "Alice Moreau", "admin", True, 1.6),
    Person("bob", "Bob Achterberg", "agent", True, 1.3),
    Person("charlie", "Charlie Osei", "member", True, 1.1),
    Person("dana", "Dana Whitfield", talk=1.4),
    Person("emeka", "Emeka Obi"),
    Person("farida", "Farida Haddad", talk=0.8),
    Person("goran", "Goran Petrović", talk=0.7),
    Person("hanna", "Hanna Lindqvist", talk=1.2),
    Person("ines", "Inês Carvalho", talk=0.6),
    Person("jiro", "Jirō Tanaka", talk=0.5),
    Person("katya", "Катя Орлова", talk=0.9),
    Person("luca", "Luca Brambilla", talk=0.7),
)


@dataclass(frozen=True, slots=True)
class Place:
    """A thread: its people by username (all when empty), and how much is said there over how many days."""

    kind: Literal["channel", "group", "direct"]
    title: str | None
    topic: str
    messages: int
    days: int
    people: tuple[str, ...] = ()


PLACES = (
    Place("channel", "Town square", "town", 20_000, 400),
    Place("channel", "Announcements", "news", 60, 300),
    Place("channel", "Market day", "market", 500, 120),
    Place("channel", "Lost and found", "lost", 180, 200),
    Place(
        "channel",
        "Library",
        "books",
        320,
        150,
        ("alice", "charlie", "dana", "hanna", "ines", "jiro", "katya"),
    ),
    Place("group", "Bridge repair", "works", 440, 45, ("alice", "bob", "charlie", "emeka", "goran", "hanna")),
    Place(
        "group", "Harvest supper", "supper", 260, 30, ("alice", "bob", "charlie", "dana", "farida", "luca")
    ),
    Place("group", "Night watch", "town", 90, 60, ("bob", "charlie", "goran", "emeka")),
    Place("group", "Choir", "choir", 150, 90, ("alice", "charlie", "hanna", "ines", "katya", "luca")),
    Place("direct", None, "works", 210, 60, ("alice", "bob")),
)


@dataclass(frozen=True, slots=True)
class Customer:
    """Somebody from outside who writes to the town hall. Of the lines those after "> " are the answers."""

    name: str
    phone_number: str  # of the numbers that are kept free for stories
    lines: tuple[str, ...]
    hours: float = 1.0  # since the last line
    status: Literal["open", "snoozed", "closed"] = "open"
    assignee: str | None = None  # who answers; nobody's are answered by bob
    labels: tuple[str, ...] = ()
    email: str | None = None
    notes: str = ""


CUSTOMERS = (
    Customer(
        "Martha Oakes",
        "+12025550101",
        (
            "Hello, I have a stall on market day and my electricity box is locked.",
            "> Good morning Martha! The key is with Dana at the clock tower until noon.",
            "Found her, thank you.",
            "One more thing: it trips when I switch the oven on.",
            "> How much does the oven draw? Each box gives 16 A.",
            "It says 3.5 kW on the back. Is that too much?",
        ),
        0.4,
        assignee="bob",
        labels=("market",),
        email="martha@example.com",
    ),
    Customer(
        "Tomasz Wilk",
        "+12025550102",
        (
            "Dzień dobry, czy biuro jest dziś otwarte?",
            "> Yes, until four today. Tak, do 16.",
            "Dziękuję! I will bring the form for the ferry pass.",
        ),
        2,
        assignee="alice",
        labels=("ferry", "forms"),
    ),
    Customer(
        "Ольга Мельник",
        "+12025550103",
        (
            "Здравствуйте! Моя лодка стоит у старого моста, её нужно убрать на время ремонта?",
            "> Добрый день! Да, пожалуйста, до понедельника: у моста будет кран.",
            "А куда её можно поставить?",
            "> За паромом есть два свободных места, бесплатно.",
            "Хорошо, спасибо большое 🙏",
        ),
        5,
        "closed",
        "bob",
        ("bridge",),
    ),
    Customer(
        "Hiro Nakagawa",
        "+12025550104",
        (
            "こんにちは。合唱団の練習は見学できますか？",
            "> はい、木曜日の夜七時です。どうぞ！",
            "ありがとうございます。楽しみにしています🎶",
        ),
        8,
        "closed",
        "alice",
        ("choir",),
        email="hiro@example.com",
    ),
    Customer(
        "+12025550105",
        "+12025550105",
        ("is this the town hall", "hello?"),
        0.1,
    ),
    Customer(
        "Beatriz Fonseca",
        "+12025550106",
        (
            "Boa tarde, perdi um guarda-chuva vermelho na biblioteca ontem.",
            "> Boa tarde! We have three umbrellas in the box, one of them is red.",
            "With a wooden handle?",
            "> With a wooden handle, and a sticker of a whale.",
            "É meu! I'll come by tomorrow ☂️",
        ),
        20,
        "snoozed",
        "bob",
        ("lost and found",),
    ),
    Customer(
        "Farm shop Haugen",
        "+12025550107",
        (
            "We can deliver 40 kg of pears for the harvest supper. Same price as last year?",
            "> That would be wonderful. Friday before ten, at the back of the bakery?",
            "Friday works. Invoice to the town hall again?",
            "> Yes please, with the order number 2207 on it.",
        ),
        26,
        assignee="alice",
        labels=("supper", "suppliers"),
        email="shop@haugen.example",
        notes="Pays and is paid within two weeks. Ask for Siri.",
    ),
    Customer(
        "Yusuf Demirci",
        "+12025550108",
        (
            "Merhaba, sokak lambası yine sönük. Poplar Lane 12 numaranın önü.",
            "> Thank you, I have told the works yard: they come on Thursday.",
            "Teşekkürler 👍",
        ),
        30,
        "closed",
        "bob",
        ("street lights",),
    ),
    Customer(
        "Ellen Carmody",
        "+12025550109",
        (
            "Somebody has parked in front of the north gate for three days now.",
            "> Is it a grey van? We know of it, the owner is in hospital. We shall have it moved with care.",
            "Oh. Then it can stay as far as I'm concerned. Tell them to get well soon.",
        ),
        50,
        "closed",
        "alice",
    ),
    Customer(
        "李静",
        "+12025550110",
        ("您好，请问图书馆星期六开门吗？", "> 开的，上午九点到下午一点。", "谢谢！"),
        70,
        "closed",
        "bob",
        ("library",),
    ),
    Customer(
        "Gustav Blom",
        "+12025550111",
        (
            "The pump at the allotments has been dripping since Sunday.",
            "> Much, or drop by drop?",
            "A bucket an hour. I counted.",
            "> Then it cannot wait. Goran comes this afternoon.",
            "He has been. Now it's two buckets an hour.",
        ),
        3,
        assignee="bob",
        labels=("allotments", "urgent"),
    ),
    Customer(
        "Nour El-Sayed",
        "+12025550112",
        (
            "مرحبا، متى موعد العبّارة الأخيرة اليوم؟",
            "> Good evening! The last one leaves at 21:40.",
            "شكرا جزيلا",
        ),
        90,
        "closed",
        "alice",
        ("ferry",),
    ),
    Customer(
        "Pia Lindgren",
        "+12025550113",
        ("Can I book the upper room for a birthday on the 14th? About twenty children.",),
        1.5,
        labels=("rooms",),
        email="pia@example.com",
    ),
    Customer(
        "Δημήτρης Παππάς",
        "+12025550114",
        (
            "Καλημέρα, πού μπορώ να αφήσω παλιά παράθυρα;",
            "> Behind the works yard, on Saturdays from nine.",
            "Ευχαριστώ!",
        ),
        120,
        "closed",
        "bob",
    ),
    Customer(
        "Council of Millbrook",
        "+12025550115",
        (
            "Following up on our letter about the shared footpath: has a date been found?",
            "> Not yet. Three of us are away; may I come back to you after the 20th?",
            "Of course.",
        ),
        140,
        "snoozed",
        "alice",
        ("footpath", "neighbours"),
        email="office@millbrook.example",
        notes="Formal. Letters by post as well.",
    ),
    Customer(
        "Sam",
        "+12025550116",
        (
            "hi when is the next film night",
            "> Saturday at eight: The Second Violin. Bring a cushion 🙂",
            "nice, thx",
        ),
        12,
        "closed",
        "bob",
        ("cinema",),
    ),
    Customer(
        "Renate Vogel",
        "+12025550117",
        (
            "Guten Tag, ich suche die Noten zum Kanon aus dem Herbstkonzert.",
            "> Guten Tag Frau Vogel! Die liegen in der Bibliothek unter C.",
            "Dort steht nur der zweite Sopran.",
            "> Dann hat Luca den Rest. Ich frage ihn heute Abend.",
        ),
        6,
        assignee="alice",
        labels=("choir", "library"),
    ),
    Customer(
        "Ade Bankole",
        "+12025550118",
        (
            "Is the bridge open for bicycles this week?",
            "> One lane is, from six to eight. Please push.",
            "Will do.",
        ),
        36,
        "closed",
        "bob",
        ("bridge",),
    ),
    Customer(
        "Ivy Tran", "+12025550119", ("Do you still need volunteers for Saturday? I have a trailer.",), 0.8
    ),
    Customer(
        "Courier, depot 4",
        "+12025550120",
        (
            "Parcel for Cooper's Yard could not be delivered, nobody there.",
            "> Please leave it at the bakery.",
            "Done ✅",
        ),
        9,
        "closed",
        "bob",
        ("parcels",),
    ),
    Customer(
        "Jean-Luc Arnaud",
        "+12025550121",
        (
            "Bonjour, l'horloge de la tour avance de sept minutes.",
            "> Bonjour ! Nous le savons : elle rattrape son retard de mardi.",
            "Ah. Alors tout va bien 😄",
        ),
        60,
        "closed",
        "alice",
    ),
    Customer(
        "Ruth Abelson",
        "+12025550122",
        (
            "My mother (88) would like to come to the harvest supper but cannot do the stairs.",
            "> There is a ramp at the side, and I'll keep her a chair by the door. Does she eat everything?",
            "No nuts, please. Thank you so much ❤️",
            "> It is noted. See you on Saturday!",
        ),
        16,
        assignee="alice",
        labels=("supper",),
    ),
    Customer("Unknown caller", "+12025550123", ("wrong number sorry",), 200, "closed"),
    Customer(
        "Kilian Brandt",
        "+12025550124",
        ("The key box at the sound desk does not close any more.", "> Did it ever?", "Fair point."),
        24,
        assignee="bob",
        labels=("repairs",),
    ),
)


@dataclass(frozen=True, slots=True)
class Topic:
    """Questions with the answers that fit them, and remarks that need none. {a} to {e} are filled in."""

    asked: tuple[tuple[str, tuple[str, ...]], ...]
    said: tuple[str, ...]


WORDS: dict[str, tuple[str, ...]] = {
    "place": (
        "the mill",
        "the old bridge",
        "the harbour",
        "the town hall",
        "the bakery",
        "the school",
        "Poplar Lane",
        "the ferry landing",
        "the library",
        "the clock tower",
        "the allotments",
        "the north gate",
        "Cooper's Yard",
    ),
    "thing": (
        "the pump",
        "a ladder",
        "the cargo bike",
        "the projector",
        "the big kettle",
        "a trailer",
        "the spare keys",
        "the generator",
        "the long tables",
        "a bag of cement",
        "the sound desk",
        "the first-aid box",
    ),
    "food": (
        "plum cake",
        "rye bread",
        "lentil soup",
        "smoked trout",
        "goat cheese",
        "pears",
        "dumplings",
        "honey",
        "walnuts",
        "pickled beets",
        "apricot jam",
        "flatbread",
        "cabbage rolls",
    ),
    "book": (
        "The Ferryman's Ledger",
        "A Winter in Tiles",
        "Salt and Rope",
        "The Beekeeper's Almanac",
        "North by Lantern",
        "Мельница у реки",
        "Forty Small Repairs",
        "雪の橋",
        "The Second Violin",
    ),
    "day": (
        "today",
        "tomorrow",
        "on Monday",
        "on Tuesday",
        "on Thursday",
        "on Saturday",
        "next week",
        "this evening",
    ),
    "time": (
        "at eight",
        "at half past nine",
        "around noon",
        "at three",
        "at quarter past four",
        "after six",
        "at seven",
    ),
    "number": ("two", "three", "five", "six", "eight", "a dozen", "twenty", "about forty"),
    "lost": (
        "a grey scarf",
        "a set of keys with a red tag",
        "a child's boot, left foot",
        "an umbrella",
        "a tabby cat",
        "reading glasses",
        "a bicycle pump",
        "a blue notebook",
        "one drumstick",
        "a silver earring",
    ),
    "tune": (
        "the Byrd",
        "the canon",
        "the carol in D minor",
        "the sea shanty",
        "the last hymn",
        "the lullaby",
    ),
}

TOPICS = {
    "town": Topic(
        (
            (
                "Does anybody know when {place} opens {day}?",
                (
                    "{time}, I think.",
                    "Usually {time}. The sign is wrong.",
                    "Closed {day}, they are painting.",
                    "I passed by earlier, it was open already.",
                ),
            ),
            (
                "Who has {thing}? I need it {day} for an hour or so.",
                (
                    "It is with me, come by {time}.",
                    "I saw it behind {place}.",
                    "Dana borrowed it last week, ask there.",
                    "Here! I'll bring it {time}.",
                ),
            ),
            (
                "Is the road past {place} still blocked?",
                (
                    "Open again since this morning.",
                    "Yes, and it will be until {day}.",
                    "One lane. Bikes get through.",
                    "Only for lorries.",
                ),
            ),
            (
                "Why is there smoke over {place}?",
                (
                    "They burn the old planks, all announced.",
                    "Fog, not smoke.",
                    "Bread. It's always bread.",
                    "Chimney sweep is on it, nothing serious.",
                ),
            ),
            (
                "What time is the meeting {day}?",
                ("{time}, upstairs.", "Moved: {time}.", "{time}, and bring a chair."),
            ),
            (
                "Could someone look after the hens {day}?",
                (
                    "Me! My kids will love it.",
                    "I can, {time}.",
                    "Only if the rooster stays polite 🐓",
                ),
            ),
        ),
        (
            "Somebody left {thing} in the rain next to {place}.",
            "Good morning everyone ☀️",
            "The ferry is late again.",
            "New bench at {place}, and it's not even crooked.",
            "Fresh {food} at the bakery, go while it lasts.",
            "Thanks to all who helped {day}.",
            "The clock stopped again. Enjoy the extra time.",
            "😂",
            "+1",
            "agreed",
            "That was me, sorry.",
            "Music {day} at {place}, {time}. Bring {food}.",
            "ok",
            "👍",
            "See you there.",
            "Power was out for {number} minutes, is everything back?",
            "Wonderful sunset over {place} tonight 🌅",
            "Всем доброе утро! Сегодня у моста ярмарка.",
            "おはようございます。今日は寒いですね。",
            "Obrigada a todos 💛",
            "Кто-нибудь видел мою кошку? Серая, с белой лапой.",
            "桥边的路今天下午关闭，请绕行。",
            "Hvala svima!",
            "If the water tastes of iron it's the new pipe; let it run a minute.",
            "Lovely. Count me in.",
            "Note to the person who waters the geraniums at {place} at night: thank you, whoever you are.",
        ),
    ),
    "news": Topic(
        (
            (
                "Office hours change {day}. Any objections?",
                ("None here.", "Fine with me.", "Please keep the evenings."),
            ),
        ),
        (
            "The office is closed {day}. Urgent matters: ring the bell {time}.",
            "Water will be off at {place} {day}, {time}.",
            "Council minutes are on the board. Short version: the bridge gets {number} new "
            "beams, the fountain waits.",
            "Thank you to the {number} volunteers who cleared {place}.",
            "The ferry runs every hour until the end of the month.",
            "Waste paper {day}. Please tie it up, the wind does the rest otherwise.",
        ),
    ),
    "market": Topic(
        (
            (
                "Who brings {food} {day}?",
                ("I do, {number} boxes.", "We have plenty left, I'll bring it.", "Me, as always."),
            ),
            (
                "How much for {food}?",
                ("Same as last week.", "{number} a bag, less if you bring the jar back.", "For you? A song."),
            ),
            (
                "Is my stall still next to {place}?",
                (
                    "Yes, third from the corner.",
                    "You moved one up, sorry!",
                    "We drew lots, you are at {place} now.",
                ),
            ),
            (
                "Has anyone got change for a fifty?",
                ("At my stall, come over.", "Try the bakery.", "Only coins, {number} kilos of them 😅"),
            ),
        ),
        (
            "Sold out of {food}. See you next time!",
            "First {food} of the year 🍐",
            "It's raining, the east row moves under the arcade.",
            "Trade: {food} for {food}, even.",
            "Скидка на мёд до вечера 🍯",
            "今日のおすすめは{food}です。",
            "Setting up now.",
            "Whoever took my table: it has a wobble, that's how you'll know.",
            "Best day since spring, {number} crates gone by {time}.",
        ),
    ),
    "lost": Topic(
        (
            (
                "Lost: {lost}, near {place}. Has anybody found it?",
                (
                    "There is {lost} on the wall at {place}.",
                    "Not yet, I'll keep an eye out.",
                    "Is it yours, the one in the library's box?",
                    "Found! I left it at {place} for you.",
                ),
            ),
            (
                "Found {lost} at {place}. Whose is it?",
                ("Mine! Thank you so much 🙏", "Could be Luca's.", "I'll ask at the school."),
            ),
        ),
        (
            "Back with its owner, thanks all.",
            "The box at {place} is full again: please look {day}.",
            "Still looking for {lost}…",
            "Потеряны ключи с красной биркой, верните пожалуйста.",
        ),
    ),
    "books": Topic(
        (
            (
                "Has someone got “{book}” at home? It's {number} weeks over.",
                ("Oh dear, yes. {day}!", "Returned it yesterday.", "Finishing it tonight, promise."),
            ),
            (
                "What shall we read next month?",
                (
                    "“{book}”, please.",
                    "Anything under three hundred pages.",
                    "“{book}”. It made me cry on the ferry.",
                ),
            ),
            (
                "Is the reading room heated {day}?",
                ("{time}, not before.", "The stove is lit, come in.", "Bring a jumper."),
            ),
        ),
        (
            "Just finished “{book}”. The middle drags, the end doesn't.",
            "New on the shelf: “{book}”.",
            "Story hour {day} {time}, all ages.",
            "「{book}」を読みました。とても良かったです。",
            "Прочитала «{book}» за одну ночь.",
            "Somebody keeps shelving poetry under plumbing.",
            "I don't agree about the narrator. He isn't unreliable, he's polite: he tells you what he can"
            " stand to say, and you are meant to notice the gaps. Read the chapter at the harbour "
            "again and look at who is missing from the table.",
        ),
    ),
    "works": Topic(
        (
            (
                "Will the beams be enough {day}?",
                ("{number} are still missing.", "Yes, counted twice.", "Goran brings the rest {time}."),
            ),
            (
                "Can we close {place} {day}?",
                (
                    "If the ferry agrees, yes.",
                    "Not before {time}, the school bus.",
                    "I'll ask and tell you tonight.",
                ),
            ),
            (
                "Who signs off the survey?",
                (
                    "I will, once I've seen the second pillar.",
                    "Hanna, as last time.",
                    "The county, in {number} weeks if at all 🙄",
                ),
            ),
            (
                "Where did you put {thing}?",
                ("In the shed at {place}.", "On the trailer.", "Same place as always, under the tarp."),
            ),
        ),
        (
            "Second pillar is sound. I put a chisel to it in {number} places and it rings everywhere.",
            "Bolts arrived.",
            "Invoice is in the folder.",
            "Rain all morning, we start {time}.",
            "Photo follows.",
            "Done for today.",
            "Careful, the east rail is only clamped.",
            "👍",
            "ok, moving it to {day}",
            "Plan for {day}: Goran and Emeka take the deck off from the north side, {number} "
            "planks at a time, Hanna checks each joist before anything goes back on, and nobody "
            "stands below. If the wind is above what the crane likes we stop and sand the "
            "railings instead.",
        ),
    ),
    "supper": Topic(
        (
            (
                "How many are we {day}?",
                ("{number} so far.", "Plus the choir, so {number} more.", "All of us, and the neighbours."),
            ),
            ("Who makes {food}?", ("I can.", "Luca, obviously.", "Last year's recipe? Then me.")),
            (
                "Anyone who doesn't eat nuts?",
                ("Farida's youngest.", "Not here.", "Two at our table, I'll mark the dishes."),
            ),
        ),
        (
            "I'll do {food} and {food}.",
            "Tables come from {place} {day}.",
            "We need {number} more chairs.",
            "🍲🍞🧀",
            "Candles: done.",
            "For the list: two long tables, the big kettle, {number} lanterns, somebody who can "
            "carve, somebody who can stop Bob carving.",
        ),
    ),
    "choir": Topic(
        (
            (
                "Are we singing {tune} {day}?",
                ("Yes, from memory.", "Only the first half.", "If the altos turn up."),
            ),
            (
                "Has anybody the score of {tune}?",
                ("Second drawer.", "I'll copy it for you.", "It's in the library under C."),
            ),
        ),
        (
            "Rehearsal {day} {time}.",
            "From the top, please 🎶",
            "{tune} still drags in bar {number}.",
            "Голос пропал, сегодня не приду.",
            "That last chord! 😍",
            "Tenors: it is a B flat. It has always been a B flat.",
        ),
    ),
}

MORE = (  # what people add to a sentence when they write more than one
    "By the way, {thing} is back at {place}.",
    "And please tell the others.",
    "We tried that last year and it went well enough.",
    "I'll be at {place} {time} if anyone wants to talk about it.",
    "No hurry.",
    "It took {number} of us most of the afternoon.",
    "There's {food} for whoever helps.",
    "My neighbour says otherwise, but my neighbour says a lot of things.",
    "Let me know {day}.",
    "The weather looks fine until {day}, after that nobody knows.",
    "I wrote it on the board as well.",
    "Otherwise we ask again {day}.",
    "Last time {number} people came, so we should plan for more.",
    "It isn't pretty, but it holds.",
)
