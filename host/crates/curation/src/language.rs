//! Which language a text is in, by `whatlang`: trigrams and alphabets (Cavnar and Trenkle 1994, "N-gram-based text
//! categorization").
//!
//! What is said is meant to be right rather than frequent, since a row is left out for it: a text has at least [`SHORTEST_TEXT`]
//! words, and the runner-up is far behind. Of paragraphs of English documentation, cut after ten words, half get an answer, and
//! 1 of 700 another one than English (code, a table); after 50 words 98 % do, and all are English.

use whatlang::Lang;

use crate::words::Words;

/// Words of the shortest text whose language is told.
pub const SHORTEST_TEXT: usize = 10;
/// Characters of a text that are looked at.
const LOOKED_AT: usize = 4000;

/// A language that is told from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Language(Lang);

impl Language {
    /// All of them, by their codes.
    pub fn all() -> impl Iterator<Item = Self> {
        CODES.iter().map(|&(_, lang)| Self(lang))
    }

    /// By its code of ISO 639-1, such as `de`.
    pub fn of_code(code: &str) -> Option<Self> {
        CODES.iter().find(|(known, _)| *known == code).map(|&(_, lang)| Self(lang))
    }

    /// Its code of ISO 639-1.
    pub fn code(self) -> &'static str {
        CODES.iter().find(|(_, lang)| *lang == self.0).map_or("", |(code, _)| code)
    }

    /// Its name in English.
    pub fn name(self) -> &'static str {
        match self.0 {
            Lang::Cmn => "Chinese",
            Lang::Nob => "Norwegian",
            lang => lang.eng_name(),
        }
    }

    /// Those that someone may have meant who wrote something else than a code: a name, a code of ISO 639-3, a code with a
    /// region (`pt-BR`), or else a code with the same letters but one.
    pub fn meant_by(word: &str) -> Vec<Self> {
        let word = word.trim().to_lowercase();
        let before = word.split(['-', '_']).next().unwrap_or_default();
        let is_near = |code: &str| {
            code.len() == word.len() && code.bytes().zip(word.bytes()).filter(|(one, other)| one == other).count() == 1
        };
        let ways: [&dyn Fn(Self) -> bool; 3] = [
            &|own| {
                let names = [own.name(), own.0.name()];
                own.code() == before || own.0.code() == before || names.iter().any(|name| name.to_lowercase() == word)
            },
            &|own| word.len() > 2 && own.name().to_lowercase().starts_with(&word),
            &|own| is_near(own.code()),
        ];
        let found = ways.iter().map(|way| Self::all().filter(|&own| way(own)).collect::<Vec<_>>());
        found.into_iter().find(|found| !found.is_empty()).unwrap_or_default()
    }
}

/// The language of a text of which `words` are the words; none where it is not certain.
pub fn language(text: &str, words: &Words) -> Option<Language> {
    if words.len() < SHORTEST_TEXT {
        return None;
    }
    let end = text.char_indices().nth(LOOKED_AT).map_or(text.len(), |(end, _)| end);
    whatlang::detect(&text[..end]).filter(whatlang::Info::is_reliable).map(|found| Language(found.lang()))
}

const CODES: [(&str, Lang); 70] = [
    ("af", Lang::Afr),
    ("ak", Lang::Aka),
    ("am", Lang::Amh),
    ("ar", Lang::Ara),
    ("az", Lang::Aze),
    ("be", Lang::Bel),
    ("bg", Lang::Bul),
    ("bn", Lang::Ben),
    ("ca", Lang::Cat),
    ("cs", Lang::Ces),
    ("cy", Lang::Cym),
    ("da", Lang::Dan),
    ("de", Lang::Deu),
    ("el", Lang::Ell),
    ("en", Lang::Eng),
    ("eo", Lang::Epo),
    ("es", Lang::Spa),
    ("et", Lang::Est),
    ("fa", Lang::Pes),
    ("fi", Lang::Fin),
    ("fr", Lang::Fra),
    ("gu", Lang::Guj),
    ("he", Lang::Heb),
    ("hi", Lang::Hin),
    ("hr", Lang::Hrv),
    ("hu", Lang::Hun),
    ("hy", Lang::Hye),
    ("id", Lang::Ind),
    ("it", Lang::Ita),
    ("ja", Lang::Jpn),
    ("jv", Lang::Jav),
    ("ka", Lang::Kat),
    ("km", Lang::Khm),
    ("kn", Lang::Kan),
    ("ko", Lang::Kor),
    ("la", Lang::Lat),
    ("lt", Lang::Lit),
    ("lv", Lang::Lav),
    ("mk", Lang::Mkd),
    ("ml", Lang::Mal),
    ("mr", Lang::Mar),
    ("my", Lang::Mya),
    ("ne", Lang::Nep),
    ("nl", Lang::Nld),
    // Of Norwegian the written language that most texts are in, Bokmål; `nb` is its own code.
    ("no", Lang::Nob),
    ("or", Lang::Ori),
    ("pa", Lang::Pan),
    ("pl", Lang::Pol),
    ("pt", Lang::Por),
    ("ro", Lang::Ron),
    ("ru", Lang::Rus),
    ("si", Lang::Sin),
    ("sk", Lang::Slk),
    ("sl", Lang::Slv),
    ("sn", Lang::Sna),
    ("sr", Lang::Srp),
    ("sv", Lang::Swe),
    ("ta", Lang::Tam),
    ("te", Lang::Tel),
    ("th", Lang::Tha),
    ("tk", Lang::Tuk),
    ("tl", Lang::Tgl),
    ("tr", Lang::Tur),
    ("uk", Lang::Ukr),
    ("ur", Lang::Urd),
    ("uz", Lang::Uzb),
    ("vi", Lang::Vie),
    ("yi", Lang::Yid),
    ("zh", Lang::Cmn),
    ("zu", Lang::Zul),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn of(text: &str) -> Option<&'static str> {
        let mut words = Words::new();
        words.read(text);
        language(text, &words).map(Language::code)
    }

    const ENGLISH: &str =
        "The committee will meet again next week to decide which of the proposals should be accepted.";
    const GERMAN: &str =
        "Der Ausschuss wird sich in der nächsten Woche wieder treffen, um über die Vorschläge zu entscheiden.";

    #[test]
    fn languages_are_told_from_each_other() {
        let texts = [
            ("en", ENGLISH),
            ("de", GERMAN),
            ("fr", "Le comité se réunira de nouveau la semaine prochaine pour décider quelles propositions accepter."),
            (
                "es",
                "El comité se reunirá otra vez la próxima semana. Entonces ellos decidirán cuáles de las propuestas son aceptadas.",
            ),
            ("pl", "Komitet spotka się ponownie w przyszłym tygodniu, aby zdecydować, które propozycje przyjąć."),
            ("ru", "Комитет снова соберётся на следующей неделе, чтобы решить, какие предложения следует принять."),
            ("uk", "Комітет знову збереться наступного тижня, щоб вирішити, які пропозиції слід прийняти зараз."),
            ("zh", "委员会将于下周再次开会，决定应接受哪些提案。"),
            ("ja", "委員会は来週また集まって、どの提案を受け入れるべきかを決めます。"),
            (
                "ko",
                "위원회는 다음 주에 다시 모여서 어떤 제안을 받아들여야 하는지 우리와 함께 오래 이야기하고 결정할 것입니다.",
            ),
            ("ar", "ستجتمع اللجنة مرة أخرى في الأسبوع المقبل لتقرر أي من المقترحات ينبغي قبولها من الجميع."),
            ("hi", "समिति अगले सप्ताह फिर से बैठक करेगी और यह तय करेगी कि किन प्रस्तावों को स्वीकार किया जाए।"),
        ];
        for (code, text) in texts {
            assert_eq!(of(text), Some(code), "{text}");
        }
    }

    #[test]
    fn what_is_not_certain_is_not_told() {
        let nine: Vec<&str> = GERMAN.split(' ').take(SHORTEST_TEXT - 1).collect();
        let nine = nine.join(" ");
        assert!(whatlang::detect(&nine).is_some_and(|found| found.lang() == Lang::Deu));
        for text in ["", "3 + 4 = 7, 5 + 6 = 11, 8 + 9 = 17, 1 + 1 = 2", "a b a b a b a b a b a b a b", nine.as_str()] {
            assert_eq!(of(text), None, "{text}");
        }
        // The beginning counts.
        assert_eq!(of(&format!("{} {}", ENGLISH.repeat(50), GERMAN.repeat(500))), Some("en"));
    }

    #[test]
    fn every_language_has_one_code() {
        let codes: BTreeSet<&str> = CODES.iter().map(|(code, _)| *code).collect();
        let names: BTreeSet<&str> = Language::all().map(Language::name).collect();
        assert_eq!((codes.len(), names.len(), Lang::all().len()), (CODES.len(), CODES.len(), CODES.len()));
        assert!(CODES.is_sorted_by_key(|(code, _)| code) && codes.iter().all(|code| code.len() == 2));
        for &lang in Lang::all() {
            assert_eq!(Language::of_code(Language(lang).code()), Some(Language(lang)), "{lang}");
        }
    }

    #[test]
    fn other_words_for_a_language_are_understood() {
        let meant = |word: &str| Language::meant_by(word).into_iter().map(Language::code).collect::<Vec<_>>();
        for word in ["deu", "German", "DE", "de-AT", "de_CH", "Deutsch"] {
            assert_eq!(meant(word), ["de"], "{word}");
        }
        assert_eq!(meant("nor"), ["no"]);
        assert!(meant("dx").contains(&"de") && meant("dx").contains(&"da") && !meant("dx").contains(&"en"));
        assert_eq!(meant("klingon"), [""; 0]);
    }
}
