"""Texts for named entities: what people write, and what tokenizers and offsets stumble over."""

SENTENCES = (
    "John Smith lives at 12 Baker Street in London.",
    "My name is Clara and I live in Berkeley, California.",
    "Please write to maria.garcia@example.com or call +1 (415) 555-0132 before noon.",
    "Send it to Dr. Anna-Maria O'Neill-Schmidt, 221B Baker St., Apt. 4, Springfield, IL 62704.",
    "Her passport is X1234567, her SSN 078-05-1120, her account 021000021/123456789.",
    "Visit https://www.example.org/a/b?c=d&e=%20f#g or www.example.com today!",
    "He said: 'Tim Cook's office isn't in Rock 'n' Roll, Arkansas.'",
    "Apple is looking at buying a U.K. startup for $1 billion, said Jane Doe.",
)

MARKS = (
    "José Muñoz y Björk Guðmundsdóttir viven en Málaga.",
    # The same accents as combining marks, which a lowercasing normaliser strips.
    "Jose\u0301 Mun\u0303oz vive en Ma\u0301laga con Zoe\u0308.",
    "Z\u0335\u0321\u033e\u0342a\u0338\u0300l\u0337\u0341g\u0334\u0311o\u0336 met Ann",
    "İstanbul'da Işık Yılmaz, Straße 5, ẞ",
    "The oﬃce of Lauﬀer, ﬁrst ﬂoor, Ǆungla, Ĳssel",
    "\uff2a\uff4f\uff48\uff4e \uff33\uff4d\uff49\uff54\uff48 \uff11\uff12\uff13 \uff34okyo",
    "Σίσυφος ΟΔΥΣΣΕΥΣ lives in Αθήνα",
)

SCRIPTS = (
    "张伟住在北京市朝阳区建国路88号。",
    "山田太郎は東京に住んでいます。メール: taro@example.jp",
    "김민준은 서울에 삽니다.",
    (
        "\u0627\u0633\u0645\u064a \u0645\u062d\u0645\u062f \u0648\u0623\u0639\u064a\u0634 "
        "\u0641\u064a \u0627\u0644\u0642\u0627\u0647\u0631\u0629، John "
        "\u0623\u064a\u0636\u0627\u064b."
    ),
    (
        "\u05e9\u05de\u05d9 \u05d3\u05e0\u05d9 \u05db\u05d4\u05df \u05d5\u05d0\u05e0\u05d9 "
        "\u05d2\u05e8 \u05d1-\u200f\u05ea\u05dc \u05d0\u05d1\u05d9\u05d1 (Tel Aviv)."
    ),
    "Иван Петров из Москвы, +7 495 123-45-67",
    "สมชายอย\u0e39\u0e48ท\u0e35\u0e48กร\u0e38งเทพ नमस\u094dत\u0947 र\u093eज",
)

SYMBOLS = (
    "Hi 😀 John😀Smith from 🇬🇧 London 👍🏽!",
    "The family 👨\u200d👩\u200d👧\u200d👦 Smith and 👩🏿\u200d🚀 Ann\ufe0f",
    (
        "\U0001d4d9\U0001d4f8\U0001d4f1\U0001d4f7 in \U00012000\U00012031 and \U0001fae8 at Ω "
        "\ue000 \U000f0000"
    ),
    "«Paul»—“Mary”… ‘Rome’ ½ ™ № 5, €20",
    "John [UNK] Smith [SEP] London [CLS] <unk> </s> <|endoftext|> ##ing",
)

SPACES = (
    "  John   Smith    \t lives in\tLondon  ",
    "John Smith\r\n12 Baker Street\r\nLondon\n\nUK\r",
    "\u00a0John\u00a0Smith\u202flives\u2003in\u3000London\u2028UK\u0085",
    "Jo\u200bhn Smi\u00adth \u200cin\u200d Lon\u2060don\ufeff",
    "\x00John\x07 Smith\x7f in� London",
    " ",
    "\n",
    "\u200b",
    ".",
)

LONG_WORDS = (
    "Mr. " + "Llanfairpwllgwyngyll" * 12 + " lives in Wales",
    "a" * 300 + "@example.com is John's",
    "x" * 99 + " " + "y" * 100 + " " + "z" * 101,
    "-".join(["John"] * 40) + "/" + "_".join(["London"] * 30),
)

TEXTS = SENTENCES + MARKS + SCRIPTS + SYMBOLS + SPACES + LONG_WORDS
