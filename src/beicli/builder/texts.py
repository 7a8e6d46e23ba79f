"""The texts and pairs every engine is compared on: short, long, many scripts, code, hardly any."""

_SHORT = (
    "Hello",
    "How do I reset my password?",
    "The invoice was paid twice.",
    "cheap flights to Lisbon in March",
    "He did not say she stole the money.",
    "Stocks fell as bond yields rose.",
    "A small grey cat sleeps on the warm windowsill.",
    "The kitten is napping in the sun.",
    "Quarterly revenue grew by 12.5 % to $3.4 million.",
    "Please cancel my subscription effective immediately!",
    "what is the boiling point of water at 2000 m altitude",
    "Refund policy for damaged goods",
    "ERROR 503: upstream connect error or disconnect/reset before headers",
    "NEVER GONNA SHOUT ABOUT IT",
    "Dr. Nowak's 3rd appointment is on 2026-02-29, which does not exist.",
)
_LONGER = (
    (
        "The committee met on Tuesday to discuss the proposed changes to the harbour. After two"
        " hours of debate, most members agreed that the northern pier needs repair before the "
        "winter storms, while the southern one can wait until the new budget is approved in "
        "spring."
    ),
    (
        "To make the dough, mix the flour with a pinch of salt, rub in the cold butter until it"
        " looks like breadcrumbs, and add just enough water to bring it together. Wrap it and "
        "leave it in the fridge for half an hour; it rolls out more evenly when it has rested."
    ),
    (
        "Vector search finds documents by meaning rather than by matching words. Each document "
        "is turned into a list of numbers by a model; a query is turned into another list by "
        "the same model, and the documents whose lists point in nearly the same direction are "
        "the answers."
    ),
    (
        "Patients with a history of severe allergic reactions should be observed for at least "
        "thirty minutes after the injection. Mild soreness at the site is common and usually "
        "disappears within two days without any treatment."
    ),
    (
        "The river rises in the hills above the town, runs west through three lakes, and "
        "reaches the sea at a wide estuary where thousands of wading birds spend the winter "
        "months."
    ),
)
_SCRIPTS = (
    "Der schnelle braune Fuchs springt über den faulen Hund.",
    "El niño comió piñas y jalapeños en el jardín.",
    "Où est la bibliothèque la plus proche, s'il vous plaît ?",
    "Não há almoço grátis na universidade.",
    "Быстрая коричневая лиса прыгает через ленивую собаку.",
    "Η γρήγορη αλεπού πηδά πάνω από τον σκύλο.",
    "素早い茶色の狐がのろまな犬を飛び越える。",
    "人工智能正在改变搜索引擎的工作方式。",
    "빠른 갈색 여우가 게으른 개를 뛰어넘는다.",
    "الثعلب البني السريع يقفز فوق الكلب الكسول.",
    "השועל החום המהיר קופץ מעל הכלב העצלן.",
    "तेज़ भूरी लोमड़ी आलसी कुत्ते के ऊपर कूदती है।",
    "สุนัขจิ้งจอกสีน้ำตาลกระโดดข้ามสุนัขขี้เกียจ",
    "Trời hôm nay đẹp quá, chúng ta đi dạo nhé.",
    "İstanbul'da ılık bir akşamüstü",
    "naïve café — résumé, coöperate, Ångström, Łódź",
    "cafe\u0301 with a combining accent",
    "ﬁnancial eﬃciency with ligatures",
    "👩‍👩‍👧‍👦 family, 👍🏽 thumbs up, 🇪🇺 flag",
    "zero\u200bwidth\u200djoiners and a\u00a0no-break space",
    "𝓕𝓪𝓷𝓬𝔂 𝕞𝕒𝕥𝕙 𝖑𝖊𝖙𝖙𝖊𝖗𝖘",
    "ｆｕｌｌｗｉｄｔｈ　ｌｅｔｔｅｒｓ",
)
_CODE = (
    "def add(a: int, b: int) -> int:\n    return a + b\n",
    "SELECT name, COUNT(*) FROM users WHERE age >= 21 GROUP BY name HAVING COUNT(*) > 1;",
    "for (let i = 0; i < n; i++) { console.log(`item ${i}`); }",
    '{"id": 17, "tags": ["a", "b"], "nested": {"ok": true, "value": null}}',
    "https://example.org/path/to/page?query=embedding+models&lang=en#section-2",
    "rm -rf ./build && cmake -S . -B build -DCMAKE_BUILD_TYPE=Release",
    "E = mc^2, \\int_0^\\infty e^{-x^2} dx = \\sqrt{\\pi}/2",
    '<div class="card"><h1>Title</h1><p>Some &amp; text</p></div>',
    "0x7fff5fbff8a0 0b101101 1e-9 NaN -0.0 +49 (0)30 1234567",
)
_HARDLY_ANYTHING = (
    "a",
    ".",
    "?!",
    " ",
    "\n\n\t",
    "0",
    "…",
    "\u200b",
    "😀",
    "-" * 40,
    "ha" * 60,
)
# Beyond every encoder window of 512 tokens, so truncation is compared as well.
_OVERLONG = (
    " ".join(_LONGER * 4),
    " ".join(_SCRIPTS * 2),
    "word " * 700,
    "Donaudampfschifffahrtsgesellschaftskapitän" * 30,
)

REFERENCE_TEXTS: tuple[str, ...] = (
    *_SHORT,
    *_LONGER,
    *_SCRIPTS,
    *_CODE,
    *_HARDLY_ANYTHING,
    *_OVERLONG,
    # Lengths in between: every prefix of a paragraph is a text of its own.
    *(" ".join(_LONGER[i % len(_LONGER)].split()[: 4 + 3 * i]) for i in range(14)),
)

# Kept in the engine, so it can be checked later without torch: one of each kind.
GOLDEN_TEXTS: tuple[str, ...] = (
    _SHORT[1],
    _SHORT[6],
    _LONGER[0],
    _SCRIPTS[0],
    _SCRIPTS[6],
    _CODE[0],
    _HARDLY_ANYTHING[1],
    _OVERLONG[0],
)

_QUERIES = (_SHORT[1], _SHORT[10], _SHORT[11], _SCRIPTS[6], _CODE[1])
_DOCUMENTS = (_SHORT[9], _LONGER[0], _LONGER[2], _LONGER[3], _SCRIPTS[0], _CODE[0])
# A query and a text for it: what fits every window, then what has to be cut.
SHORT_PAIRS: tuple[tuple[str, str], ...] = tuple(
    (query, document) for query in _QUERIES for document in _DOCUMENTS
)
OVERLONG_PAIRS: tuple[tuple[str, str], ...] = (
    *((_QUERIES[0], document) for document in _OVERLONG),
    (_OVERLONG[0], _DOCUMENTS[0]),
    (_OVERLONG[2], _OVERLONG[1]),
    (_QUERIES[0], _HARDLY_ANYTHING[3]),
)
