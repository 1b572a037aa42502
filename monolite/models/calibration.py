"""Texts to see how far a model's activations reach, before it is quantized.

Short and long, prose and code, several languages: what is largest in an encoder shows at its
special tokens, at punctuation and at rare words. None of them is in a benchmark.
"""

TEXTS = (
    "Hello.",
    "Yes!",
    "42",
    "?",
    "the",
    "Paris",
    "Read this first.",
    "Not now, thanks.",
    "How do I change the address on my invoice?",
    "My parcel arrived damaged; can I send it back?",
    "The cat slept on the warm roof all afternoon.",
    "Rain is expected in the north, with sunny spells later in the day.",
    "She bought three apples, two pears and a loaf of bread.",
    "Water boils at 100 °C at sea level.",
    "The committee meets every second Tuesday, unless it is a holiday.",
    "Is the museum open on Sundays?",
    'An opening quotation mark without its partner: "like this.',
    "In 1969 people walked on the moon for the first time.",
    "def area(radius): return 3.14159 * radius ** 2",
    "SELECT name, price FROM products WHERE price < 20 ORDER BY name;",
    '<p class="note">See also: <a href="/help">help</a></p>',
    '{"id": 7, "tags": ["new", "sale"], "price": 9.99}',
    "error: cannot open file 'report.txt': permission denied (code 13)",
    "https://example.org/a/very/long/path?with=parameters&and=more#fragment",
    "pneumonoultramicroscopicsilicovolcanoconiosis",
    "!!! ??? ... --- ((( ))) *** ///",
    "a b c d e f g h i j k l m n o p q r s t u v w x y z",
    "ALL CAPITAL LETTERS ARE HARD TO READ",
    "Die Rechnung ist bis zum Ende des Monats zu bezahlen.",
    "¿Dónde está la estación de tren más cercana?",
    "Le train de nuit part à vingt-deux heures trente.",
    "Il pane fresco si compra la mattina presto.",
    "O relatório será publicado na próxima semana.",
    "Книга лежит на столе рядом с окном.",
    "今日は天気がいいので、公園を散歩しました。",
    "请把这份文件发给我们的会计。",
    "오늘 저녁에 시간이 있으세요?",
    "كيف يمكنني الوصول إلى المطار؟",
    "मुझे एक कप चाय चाहिए।",
    "Bu akşam hava çok soğuk olacak.",
    "The old lighthouse keeper climbed the spiral stairs every evening, trimmed the wick, wound "
    "the clockwork and sat by the window until the first ships of the night had found their way "
    "past the rocks. He had done so for thirty years, and in all that time no vessel was lost.",
    "To install the shelf, first mark the height on the wall with a pencil. Drill two holes, put "
    "in the plugs, and drive the screws until they stand out by about five millimetres. Then hang "
    "the shelf on the screws and check with a level that it is straight. If it isn't, loosen the "
    "left screw by half a turn, and check again; repeat this until the bubble rests in the middle.",
    "Terms: the buyer may cancel within fourteen days of delivery without giving a reason. The "
    "goods are to be returned unused and in their packaging; the buyer bears the cost of return. "
    "Refunds are made to the original means of payment within fourteen days after the goods "
    "arrived. This does not apply to perishable goods, to goods made to order, or to sealed media "
    "once opened.",
)
