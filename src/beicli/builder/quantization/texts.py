"""The texts and pairs that a calibration observes, beside ordinary English ones.

Scales are fitted to what was seen, so there is some of everything that may come: scripts, code, and
what is hardly a text, which makes activations like nothing else does. None is a text of the gate.
"""

_QUESTIONS = (
    "Where can I download my tax certificate?",
    "how long does it take to boil an egg at sea level",
    "best hiking boots for wide feet",
    "Why is my battery draining so fast after the update?",
    "side effects of ibuprofen together with coffee",
    "change delivery address of an order that has shipped",
    "who wrote the brothers karamazov",
    "python list comprehension with two conditions",
)
_SENTENCES = (
    "The train to the coast leaves from platform nine at a quarter past six.",
    "She has not replied to any of my letters since the winter.",
    "Our warehouse received 1,250 boxes, of which 17 were damaged in transit.",
    "If the pressure drops below 2.5 bar, close the valve and call the engineer on duty.",
    "I loved the first half of the film, but the ending made no sense at all.",
    "Payment is due within thirty days; a reminder costs 5.00 EUR.",
    "The defendant denies that the contract was ever signed.",
    "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen.",
    "DO NOT REPLY TO THIS MESSAGE!!! YOU HAVE WON A PRIZE!!!",
    "ok thx, cu tmrw :)",
)
_SCRIPTS = (
    "Am Wochenende fahren wir mit dem Fahrrad an den See.",
    "Mañana habrá tormentas en el norte y sol en la costa.",
    "Le prix du pain a encore augmenté cette année.",
    "O comboio das sete está atrasado por causa do nevoeiro.",
    "Il gatto dorme sul tetto, il cane abbaia alla luna.",
    "Zażółć gęślą jaźń, a potem idź spać.",
    "Завтра утром мы поедем на дачу собирать яблоки.",
    "Ο καιρός σήμερα είναι καλός για περπάτημα.",
    "明日は雨が降るので傘を持って行ってください。",
    "这家餐厅的面条又便宜又好吃。",
    "오늘 저녁에 친구들과 영화를 보러 갈 거예요.",
    "كيف يمكنني الوصول إلى محطة القطار؟",
    "איפה אפשר לקנות כרטיסים לרכבת?",
    "कल सुबह बाज़ार बंद रहेगा।",
    "พรุ่งนี้ร้านปิดทำการครึ่งวัน",
    "Bu akşam balık ekmek yiyelim mi?",
    "Hôm qua tôi đã mua một quyển sách rất hay.",
    "ŁÓDŹ, MÜNCHEN, ÅRHUS, ĐÀ NẴNG",
    "o\u0308ffentliche Ga\u0308rten",
    "ﬂuﬀy aﬃnity",
    "🎉🎉 party tonight 🍕🍺",
    "❤",
    "𝐛𝐨𝐥𝐝 𝑖𝑡𝑎𝑙𝑖𝑐 𝔣𝔯𝔞𝔨𝔱𝔲𝔯",
    "ＡＢＣ　１２３",
    "soft\u00adhyphen and zero\u200cwidth",
)
_CODE = (
    "import os\nfor name in sorted(os.listdir('.')):\n    print(name)\n",
    "UPDATE orders SET status = 'paid' WHERE id IN (SELECT order_id FROM payments);",
    "const sum = (xs) => xs.reduce((a, b) => a + b, 0);",
    '{"user": {"name": "Ada", "roles": ["admin"]}, "active": false, "score": 0.75}',
    "git log --oneline --graph | head -n 20",
    "https://shop.example.com/cart?item=42&coupon=SPRING",
    "user.name+tag@example.org",
    "<p>Hello,&nbsp;<b>world</b></p>",
    "f(x) = \\frac{1}{\\sqrt{2\\pi}} e^{-x^2/2}",
    '192.168.0.1:8080 - - [12/Mar/2024:10:15:32 +0000] "GET / HTTP/1.1" 200 512',
    "550e8400-e29b-41d4-a716-446655440000",
    "ACGTTGCAACGTAGCTAGCTAACGT",
    "3.14159 2.71828 1.41421 0.57721 -40 +7 1e6",
)
_HARDLY_ANYTHING = (
    *("", "b", "z", "7", "!", ",", "-", "...", "()", "#", "@@", "&", "\t", "  ", "\r\n"),
    *("…!", "?", "??", "¿", "—", "_" * 25, "=" * 60, "." * 80, "*" * 7, "~~~~", "0000000000"),
    *("\u00a0", "\ufeff", "🙂", "👍👍👍", "no", "yes", "the", "and and and and", "lol " * 12),
    *("test " * 60, "a b c d e f g h i j k l m n o p", "ab" * 40, "x" * 90, "blah, " * 150),
    *("- \n" * 30, "1 2 3 4 5 6 7 8 9 " * 20, "Aaaaaaaaaaaaargh", "hmm", "N/A", "null", "TODO"),
)
_LONG = (
    " ".join(_SENTENCES * 3),
    " ".join(_SCRIPTS),
    "\n".join(_CODE * 2),
    " ".join(reversed(_SENTENCES)) + " " + " ".join(_QUESTIONS * 8),
)

CALIBRATION_TEXTS: tuple[str, ...] = (
    *_QUESTIONS,
    *_SENTENCES,
    *_SCRIPTS,
    *_CODE,
    *_HARDLY_ANYTHING,
    *_LONG,
)
# A query and a text for it, a good one and a bad one in turn.
CALIBRATION_PAIRS: tuple[tuple[str, str], ...] = (
    *zip(_QUESTIONS, _SENTENCES, strict=False),
    *zip(_QUESTIONS, _SCRIPTS, strict=False),
    *zip(_QUESTIONS, _CODE, strict=False),
    *zip(_SCRIPTS, _SENTENCES, strict=False),
    (_QUESTIONS[0], _LONG[0]),
    (_QUESTIONS[3], _LONG[1]),
    (_LONG[0], _QUESTIONS[1]),
    ("?", "!"),
)
