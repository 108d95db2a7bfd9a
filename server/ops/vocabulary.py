"""The words of the masses: what customers in many countries write, frequent words first. Data for slices.py."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Language:
    """words: by falling frequency. endings: with them the later words make the many that are rare."""

    name: str
    share: float  # of the contacts
    dial: tuple[str, int]  # the country's code, and how many digits follow it
    given: tuple[str, ...]
    family: tuple[str, ...]
    words: tuple[str, ...]
    endings: tuple[str, ...]
    stock: tuple[str, ...]  # whole sentences that people write again and again
    joint: str = " "
    stops: tuple[str, ...] = (".", ".", ".", "", "", "!", "?")
    lengths: tuple[int, int] = (3, 25)  # words of a sentence, about
    family_first: bool = False


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.strip().splitlines())


LANGUAGES = (
    Language(
        "en",
        0.30,
        ("44", 10),
        _words(
            "Oliver Amelia George Isla Harry Ava Noah Mia Jack Grace Leo Lily Oscar Ella Arthur Freya Henry "
            "Ruby Thomas Alice Samuel Martha Daniel Hannah Peter Nora Simon Tess Victor Wendy"
        ),
        _words(
            "Smith Jones Taylor Brown Williams Wilson Johnson Davies Patel Wright Walker White Edwards Green "
            "Hall Clarke Hughes Lewis Cooper Ward Morris Bailey Carter Gray Holmes Fletcher Barker Osborne "
            "Whitaker Pemberton"
        ),
        _words(
            "the to and I you it a is my for of in that on have can we please be with not your this are but was "
            "will me at do if so just from or today order no when thanks get there how tomorrow what all one "
            "good time would yes they am as by up hello know out like back could here send still day about now "
            "been delivery week see number need only again has already morning after help new then call very "
            "two who where more some did invoice want phone before work next parcel thing long take evening "
            "sorry right made address Monday an wrong first ask working look since come house soon Friday give "
            "later account try both driver blue let any our because paid start payment late open repair "
            "question small replace machine refund cable part colour size missing garden price check return "
            "photo door hours confirm kitchen email green company shop receipt battery engineer appointment "
            "bank cancel screen box charge friend book winter chair window delay post neighbour water bill "
            "customer branch ticket charger contract problem address-book warranty discount manual signal "
            "router lamp printer package courier kettle shelf mattress drawer curtain heater boiler bicycle "
            "helmet saddle ladder plumber carpet voucher tracking warehouse pallet fabric sample leather "
            "ceramic copper walnut velvet hinge bracket filter gasket thermostat valve compressor dashboard "
            "subscription upgrade password statement"
        ),
        _words("s ed ing er ers ly ness less ful able 's -free -side wise ish ment works house board line"),
        _lines("""
            Thanks a lot!
            Ok, see you then
            Hello, is anybody there?
            Great, that works for me.
            Any news on this?
            Could you call me back please?
            Never mind, it just arrived
            Sorry for the late reply.
            Yes please
            👍
        """),
    ),
    Language(
        "de",
        0.15,
        ("49", 11),
        _words(
            "Anna Lukas Lena Jonas Marie Felix Sophie Paul Clara Maximilian Laura Jürgen Katharina Björn Greta "
            "Moritz Ingrid Stefan Ursula Käthe Friedrich Annika Matthias Heike"
        ),
        _words(
            "Müller Schmidt Schneider Fischer Weber Meyer Wagner Becker Schulz Hoffmann Schäfer Koch Bauer "
            "Richter Klein Wolf Schröder Neumann Schwarz Zimmermann Krüger Hartmann Lange Grünwald Weiß"
        ),
        _words(
            "ich die und der Sie das ist zu nicht in ein mit es bitte auf für den wir haben noch habe eine von "
            "kann auch mir an dem so wie bei heute aber am oder schon morgen sich wird danke dass nur was um "
            "ihre nach mich wenn Bestellung war aus uns mal bin hat jetzt keine zum gerne wieder Uhr können "
            "immer sehr da mehr alles gut Lieferung würde doch wann diese hier über Termin guten Woche bis "
            "durch hallo sind Rechnung ihnen also etwas leider Nummer möchte letzte Adresse kein zwei dann "
            "Anfrage Paket Montag Frage vielleicht Konto ganz neue bekommen gestern vor ohne Tag Hilfe Gerät ob "
            "seit Kunde Preis Monat Größe Straße Farbe Problem Freitag Wohnung Fahrer bezahlt Schlüssel Tür "
            "Garten Küche Fenster Heizung Werkstatt Rückgabe Gutschein Vertrag Nachbar Lager Zahlung Ersatzteil "
            "Bestätigung Maschine Kabel Drucker Schrank Lampe Stuhl Büro Versand Techniker Anschluss "
            "Überweisung Kündigung Mahnung Gewährleistung Pumpe Ventil Dichtung Schraube Brett Ziegel Kachel "
            "Teppich Vorhang Bügel Kessel Leiter Werkzeug Zubehör Muster Leder Kupfer Eiche"
        ),
        _words(
            "en er ung ungen lich isch termin nummer stelle schein los haft chen platz preis karte dienst "
            "abteilung bar"
        ),
        _lines("""
            Vielen Dank!
            Alles klar, bis dann
            Guten Tag, ist jemand da?
            Das passt mir gut.
            Gibt es schon etwas Neues?
            Bitte rufen Sie mich zurück.
            Hat sich erledigt, danke
            Entschuldigung für die späte Antwort.
            ok
            Gerne 😊
        """),
    ),
    Language(
        "es",
        0.12,
        ("34", 9),
        _words(
            "María José Lucía Antonio Carmen Manuel Sofía Javier Paula Diego Elena Álvaro Inés Rubén Pilar "
            "Ramón Marta Óscar Noelia Iván"
        ),
        _words(
            "García Fernández González Rodríguez López Martínez Sánchez Pérez Gómez Martín Jiménez Ruiz "
            "Hernández Díaz Moreno Muñoz Álvarez Romero Núñez Ibáñez"
        ),
        _words(
            "de que el la no en me por un pedido a y es lo mi para con una los se gracias hola ya está las "
            "buenos si te favor como más pero hoy del mañana le su esta tengo quiero puedo todo muy bien días "
            "sin cuando hay aquí semana todavía ha nada son factura envío ser hacer también llegar tiene qué "
            "dirección número tarde dos solo después ayer necesito teléfono problema casa hora señor cuenta "
            "dónde paquete otra vez gusta ahora entrega pregunta lunes precio pago viernes cambiar nuevo año "
            "desde llamar tienda color talla ayuda puerta mensaje cliente reparación correo garantía devolución "
            "máquina cocina ventana cita contrato vecino recibo técnico tarjeta almacén pieza cable pantalla "
            "silla mesa jardín lámpara oficina descuento camión caldera llave grifo tornillo alfombra cortina "
            "cajón colchón estante muestra cobre madera cuero"
        ),
        _words("s es ito ita mente ción ado ada ando ero era able ería azo illo"),
        _lines("""
            ¡Muchas gracias!
            Vale, hasta luego
            Buenas, ¿hay alguien?
            Perfecto, me viene bien.
            ¿Se sabe algo?
            Llámeme cuando pueda, por favor.
            Ya ha llegado 🎉
            Perdone la tardanza.
            Sí
        """),
    ),
    Language(
        "fr",
        0.10,
        ("33", 9),
        _words(
            "Camille Louis Chloé Hugo Manon Théo Élise Jules Inès Gaël Margaux Rémi Zoé Benoît Hélène Étienne "
            "Agathe François Noémie Loïc"
        ),
        _words(
            "Martin Bernard Dubois Thomas Robert Petit Durand Leroy Moreau Lefèvre Garnier Faure Rousseau Blanc "
            "Guérin Fontaine Chevalier François Mercier Bélanger"
        ),
        _words(
            "je de la le et vous est pas à les pour que un bonjour en ma une des ne commande merci il mon dans "
            "ce avec sur plus du me qui votre nous au mais bien ai si tout on demain être par fait livraison "
            "très elle suis encore avez aujourd'hui peut comme c'est j'ai semaine faire oui rien où quand "
            "toujours jour numéro facture après adresse deux trop reçu avant heure cela aussi même colis sans "
            "matin soir depuis merci problème bonne rendez-vous autre client nouveau temps maison question "
            "téléphone voir appeler prix lundi vendredi payer compte remboursement couleur taille porte cuisine "
            "fenêtre jardin magasin réparation chauffage facteur contrat garantie pièce machine câble écran "
            "lampe chaise bureau voisin reçu technicien clé robinet tapis rideau tiroir étagère échantillon "
            "cuivre chêne cuir"
        ),
        _words("s e es ment tion eur euse age ette ons ez é ée ant able erie"),
        _lines("""
            Merci beaucoup !
            D'accord, à bientôt
            Bonjour, il y a quelqu'un ?
            Parfait, ça me va.
            Avez-vous des nouvelles ?
            Pouvez-vous me rappeler ?
            C'est bon, je l'ai reçu 🙂
            Désolé pour le retard.
            Oui
        """),
    ),
    Language(
        "tr",
        0.05,
        ("90", 10),
        _words(
            "Ayşe Mehmet Fatma Mustafa Emine Ahmet Zeynep İbrahim Elif Ömer Şule Çağla Gökhan Işıl Uğur Özge"
        ),
        _words(
            "Yılmaz Kaya Demir Çelik Şahin Yıldız Öztürk Aydın Özdemir Arslan Doğan Kılıç Çetin Güneş Işık "
            "Şimşek"
        ),
        _words(
            "bir ve bu için sipariş merhaba ne de da çok mı var ama evet yarın bugün teşekkürler ben siz hayır "
            "daha ile gibi kadar lütfen sonra tamam nasıl zaman saat gün iyi şey yok kargo adres numara hafta "
            "önce hemen yeni fatura ödeme geldi olarak neden şimdi telefon sorun yardım ev müşteri teslimat "
            "akşam sabah pazartesi cuma fiyat renk beden kapı mutfak pencere bahçe dükkân tamir iade hesap "
            "banka indirim garanti makine kablo ekran sandalye masa lamba usta anahtar musluk halı perde "
            "çekmece örnek bakır deri ceviz"
        ),
        _words("lar ler ın in da de dan den im ımız iniz cı lık sız lı larda leri"),
        _lines("""
            Çok teşekkürler!
            Tamam, görüşürüz
            Merhaba, kimse var mı?
            Bana uyar.
            Haber var mı?
            Beni arar mısınız?
            Geldi 👍
            Geç cevap için özür dilerim.
        """),
    ),
    Language(
        "pl",
        0.05,
        ("48", 9),
        _words(
            "Zofia Jakub Zuzanna Łukasz Małgorzata Paweł Agnieszka Michał Świętosława Błażej Jadwiga Grzegorz "
            "Żaneta"
        ),
        _words(
            "Nowak Kowalski Wiśniewski Wójcik Kowalczyk Kamiński Lewandowski Zieliński Szymański Woźniak "
            "Dąbrowski"
        ),
        _words(
            "nie to się w na i jest że do proszę z co dzień dobry ja jak za ale czy mam po o zamówienie "
            "dziękuję już tak od dla jutro być mogę tylko pan mnie dziś paczka bardzo jeszcze kiedy było gdzie "
            "przesyłka faktura numer adres nowy tydzień godzina teraz pytanie dostawa telefon problem dom "
            "płatność zwrot rozmiar kolor drzwi kuchnia okno ogród sklep naprawa konto bank rabat gwarancja "
            "maszyna kabel ekran krzesło stół lampa klucz kran dywan zasłona szuflada półka próbka miedź skóra "
            "orzech"
        ),
        _words("a y i ów em ami ach owi ie ek ka nik ość owy owa"),
        _lines("""
            Dziękuję bardzo!
            W porządku, do zobaczenia
            Dzień dobry, jest tam ktoś?
            Pasuje mi.
            Są jakieś wieści?
            Już dotarło 😀
        """),
    ),
    Language(
        "ru",
        0.09,
        ("7", 10),
        _words(
            "Анна Иван Мария Дмитрий Ольга Сергей Екатерина Алексей Наталья Михаил Светлана Андрей Юлия Павел "
            "Ирина Фёдор Людмила Ярослав"
        ),
        _words(
            "Иванов Смирнова Кузнецов Попова Соколов Лебедева Козлов Новикова Морозов Волкова Соловьёв Зайцева "
            "Павлов Орлова Щербаков Журавлёва"
        ),
        _words(
            "не и в я на что вы с это заказ мне у как но здравствуйте по можно за пожалуйста уже а нет когда "
            "есть мы все спасибо ещё завтра к да он от до сегодня так только бы из было для где доставка меня "
            "если вас номер адрес деньги день очень они хорошо или нужно вам неделя посылка после время будет "
            "сколько почему счёт новый оплата вчера вопрос телефон утром вечером цена дом возврат помощь цвет "
            "размер дверь кухня окно сад магазин ремонт договор гарантия машина кабель экран стул стол лампа "
            "сосед мастер ключ кран ковёр штора ящик полка образец медь кожа орех котёл насос клапан прокладка"
        ),
        _words("а ы ов ам ами ах ом ой ный ная ного ость ка ник щик ение"),
        _lines("""
            Большое спасибо!
            Хорошо, до связи
            Добрый день, есть кто-нибудь?
            Мне подходит.
            Есть новости?
            Перезвоните мне, пожалуйста.
            Уже привезли 🎉
            Да
        """),
    ),
    Language(
        "el",
        0.03,
        ("30", 10),
        _words("Μαρία Γιώργος Ελένη Κώστας Κατερίνα Νίκος Σοφία Δημήτρης Αγγελική Θανάσης Χρήστος"),
        _words("Παπαδόπουλος Νικολάου Γεωργίου Ιωάννου Βασιλείου Οικονόμου Δημητρίου Αθανασίου Καραγιάννης"),
        _words(
            "και το να μου η ο για δεν την με παραγγελία σας που στο θα είναι από ευχαριστώ τα καλημέρα έχω "
            "αύριο πότε σήμερα παρακαλώ ναι όχι αριθμός διεύθυνση δέμα ώρα πολύ ακόμα εβδομάδα μέρα σπίτι τιμή "
            "χρώμα μέγεθος πόρτα κουζίνα παράθυρο κήπος κατάστημα επισκευή λογαριασμός τράπεζα έκπτωση εγγύηση "
            "μηχανή καλώδιο οθόνη καρέκλα τραπέζι λάμπα κλειδί βρύση χαλί συρτάρι δείγμα χαλκός δέρμα καρυδιά"
        ),
        _words("ς ες α ων ους ος ου άκι ικό ικά ση μα"),
        _lines("""
            Ευχαριστώ πολύ!
            Εντάξει, τα λέμε
            Καλησπέρα, είναι κανείς εκεί;
            Έφτασε 👍
        """),
        stops=(".", ".", "", "!", ";"),
    ),
    Language(
        "ar",
        0.03,
        ("971", 9),
        _words("محمد فاطمة أحمد عائشة علي مريم يوسف ليلى خالد نور حسن سلمى عمر هدى"),
        _words("الأحمد الحسن العلي الخطيب النجار الحداد المصري الشامي القاسم الراشد"),
        _words(
            "من في على الطلب أنا هل مرحبا لا إلى أن شكرا هذا غدا متى مع كان اليوم لم نعم عن أريد التوصيل رقم "
            "العنوان وصل بعد قبل الفاتورة الدفع الأسبوع الساعة ممكن فضلك هنا البيت السعر اللون المقاس الباب "
            "المطبخ النافذة الحديقة المتجر الإصلاح الحساب البنك الخصم الضمان الآلة الشاشة الكرسي الطاولة "
            "المصباح المفتاح السجادة العينة"
        ),
        _words("ة ات ين ها هم كم نا ي ية ان"),
        _lines("""
            شكرا جزيلا
            حسنا، إلى اللقاء
            هل من أحد هنا؟
            وصل الطرد 👍
        """),
        stops=(".", "", "", "!", "؟"),
    ),
    Language(
        "zh",
        0.05,
        ("86", 11),
        _words("伟 芳 娜 敏 静 丽 强 磊 军 洋 勇 艳 杰 娟 涛 明 超 秀英 建国 晓梅 志强 婷婷"),
        _words("王 李 张 刘 陈 杨 赵 黄 周 吴 徐 孙 胡 朱 高 林 何 郭 马 罗"),
        _words(
            "的 我 您好 了 是 订单 请问 什么 时候 可以 在 你们 没有 不 到 吗 今天 明天 谢谢 快递 还 有 这个 "
            "地址 收到 已经 发货 号码 付款 发票 多少 钱 怎么 退货 麻烦 一下 电话 上午 下午 星期一 星期五 公司 "
            "客户 问题 颜色 尺寸 价格 优惠 维修 保修 机器 屏幕 电缆 门 厨房 窗户 花园 商店 账户 银行 合同 邻居 "
            "师傅 钥匙 水龙头 地毯 窗帘 抽屉 书架 样品 铜 皮革 胡桃木 锅炉 水泵 阀门 垫圈 打印机 椅子 桌子 灯 "
            "包裹 仓库 司机 早上 晚上 仍然 需要"
        ),
        _words("们 子 机 店 员 费 单 号 处 部 器 箱 城 村 路"),
        _lines("""
            非常感谢！
            好的，再见
            你好，有人在吗？
            有消息了吗？
            已经收到了👍
        """),
        joint="",
        stops=("。", "。", "", "！", "？"),
        lengths=(4, 18),
        family_first=True,
    ),
    Language(
        "ja",
        0.03,
        ("81", 10),
        _words("陽菜 蓮 結衣 大翔 美咲 健太 さくら 翔太 葵 拓海 由美子 直樹 恵 誠 あかり"),
        _words("佐藤 鈴木 高橋 田中 伊藤 渡辺 山本 中村 小林 加藤 吉田 山田 佐々木 松本 井上"),
        _words(
            "の は が を に です ます 注文 で と お願い します まだ 届き 商品 ください いつ 明日 今日 配達 荷物 "
            "こんにちは も から まで 住所 番号 ありがとう ございます ません 電話 支払い 請求書 返品 確認 時間 "
            "午前 午後 月曜日 金曜日 会社 お客様 問題 色 サイズ 値段 割引 修理 保証 機械 画面 ケーブル ドア "
            "台所 窓 庭 店 口座 銀行 契約 隣 鍵 蛇口 カーペット カーテン 引き出し 棚 見本 銅 革 クルミ ボイラー "
            "ポンプ バルブ プリンター 椅子 机 ランプ"
        ),
        _words("さん 様 機 店 部 用 的 化 所 品 たち ら"),
        _lines("""
            ありがとうございます！
            了解しました
            どなたかいらっしゃいますか？
            届きました👍
        """),
        joint="",
        stops=("。", "。", "", "！", "？"),
        lengths=(4, 18),
        family_first=True,
    ),
)

# What stands in messages of every language, now and then: seldom twice the same.
CODES = ("#{:06d}", "INV-{:07d}", "{:05d}/26", "REF {:08d}", "AB{:06d}X", "+{:06d}", "www.example.com/{:06d}")
EMOJI = ("🙂", "👍", "🙏", "😂", "🎉", "❤️", "😡", "📦", "🚚", "☀️", "🤔", "👋🏽", "🏠", "✅", "🐈", "👩‍🔧")
LABELS = (
    "delivery",
    "billing",
    "returns",
    "vip",
    "repair",
    "wholesale",
    "spam",
    "Reklamation",
    "срочно",
    "返品",
    "lead",
    "follow-up",
)
NOTES = (
    "Prefers calls after 5 pm.",
    "Speaks English too.",
    "Has two accounts.",
    "Deliver to the back door.",
    "",
)
SYLLABLES = {  # of the names of places and goods that hardly anybody else mentions
    "Latin": _words(
        "ba ber bran cal dor el fen gar hal is jo kar lin mar nor or pel quin ros sten tar ul ver wick yar zel"
    ),
    "Cyrillic": _words(
        "ба вер гор дол ель жар зим кам лес мор ник оль пол ряз сол тар ух фёд хим цар чер шув яр"
    ),
    "Greek": _words("αρ βα γε δρα ελ ζω θη κα λι μα νε πα ρο σα τρι φο χα ωλ"),
    "Arabic": _words("با تا دار سا شا عم فا قر كا لم ما نا وا يا"),
    "Han": _words("安 北 昌 东 福 光 海 江 兰 明 南 平 清 山 泰 文 西 阳 云 中"),
    "Kana": _words("ア イ カ キ サ シ タ ツ ナ ハ マ ミ ヤ ラ リ ロ"),
}
SCRIPTS = {"ru": "Cyrillic", "el": "Greek", "ar": "Arabic", "zh": "Han", "ja": "Kana"}  # others: Latin
