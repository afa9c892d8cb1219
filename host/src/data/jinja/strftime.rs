//! `strftime_now`: Python's `strftime` on Linux in the C locale, of the moment that a run is frozen at.

use super::error::Result;
use super::limits::Budget;

/// The moment that `strftime_now` prints: seconds since 1970, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now(pub u64);

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// A moment by the calendar.
struct Moment {
    seconds: i64,
    year: i64,
    month: i64,
    day: i64,
    /// 0 is Sunday.
    weekday: i64,
    /// 0 is the first of January.
    day_of_year: i64,
    hour: i64,
    minute: i64,
    second: i64,
}

impl Moment {
    fn of(now: Now) -> Self {
        let seconds = now.0.min(253_402_300_799) as i64;
        let days = seconds.div_euclid(86_400);
        let of_day = seconds.rem_euclid(86_400);
        let (year, month, day) = civil_from_days(days);
        Self {
            seconds,
            year,
            month,
            day,
            weekday: (days + 4).rem_euclid(7),
            day_of_year: days - days_before(year),
            hour: of_day / 3600,
            minute: of_day / 60 % 60,
            second: of_day % 60,
        }
    }

    /// The week of the year by ISO 8601, and the year that it belongs to.
    fn iso_week(&self) -> (i64, i64) {
        let from_monday = (self.weekday + 6) % 7;
        // The year of a week is that of its Thursday.
        let thursday = self.day_of_year - from_monday + 3;
        let length = days_before(self.year + 1) - days_before(self.year);
        if thursday < 0 {
            let before = days_before(self.year) - days_before(self.year - 1);
            (self.year - 1, (thursday + before) / 7 + 1)
        } else if thursday >= length {
            (self.year + 1, (thursday - length) / 7 + 1)
        } else {
            (self.year, thursday / 7 + 1)
        }
    }
}

/// Days from 1970 to the first of January of a year.
fn days_before(year: i64) -> i64 {
    let past = year - 1;
    past * 365 + past.div_euclid(4) - past.div_euclid(100) + past.div_euclid(400) - 719_162
}

/// Days since 1970-01-01 to year, month, day (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The moment as `format` says.
pub(super) fn strftime(now: Now, format: &str, budget: &Budget) -> Result<String> {
    let moment = Moment::of(now);
    let mut out = String::new();
    write(&mut out, &moment, format, budget)?;
    Ok(out)
}

/// How a directive is changed by what stands between `%` and its letter.
#[derive(Default)]
struct Flags {
    /// `-` leaves padding out, `_` pads with blanks, `0` with zeros.
    pad: Option<char>,
    upper: bool,
    swap: bool,
    width: usize,
}

fn write(out: &mut String, moment: &Moment, format: &str, budget: &Budget) -> Result<()> {
    let mut characters = format.chars().peekable();
    while let Some(character) = characters.next() {
        budget.fits(out.len())?;
        budget.work(1)?;
        if character != '%' {
            out.push(character);
            continue;
        }
        let mut written = String::from("%");
        let mut flags = Flags::default();
        while let Some(flag) = characters.next_if(|c| matches!(c, '-' | '_' | '0' | '^' | '#')) {
            written.push(flag);
            match flag {
                '^' => flags.upper = true,
                '#' => flags.swap = true,
                pad => flags.pad = Some(pad),
            }
        }
        while let Some(digit) = characters.next_if(char::is_ascii_digit) {
            written.push(digit);
            flags.width = flags.width.saturating_mul(10).saturating_add(digit as usize - '0' as usize);
        }
        budget.text(flags.width)?;
        // Other eras and digits, which the C locale has not; each is there for some letters only.
        let modifier = characters.next_if(|c| matches!(c, 'E' | 'O'));
        written.extend(modifier);
        let Some(letter) = characters.next() else {
            // A lone `%` at the end is written as it is.
            out.push_str(&written);
            break;
        };
        written.push(letter);
        let is_modified = match modifier {
            Some('E') => "cCnpPrRstTuxXyY%".contains(letter),
            Some(_) => "bBCdegGhHIjklmMnpPrRsStTuUVwWy%".contains(letter),
            None => true,
        };
        if !is_modified || !directive(out, moment, &written, letter, &flags, budget)? {
            // As the C library does with what it does not know.
            out.push_str(&written);
        }
    }
    Ok(())
}

/// Writes what one letter stands for; false if it stands for nothing.
fn directive(
    out: &mut String,
    moment: &Moment,
    written: &str,
    letter: char,
    flags: &Flags,
    budget: &Budget,
) -> Result<bool> {
    let number = |out: &mut String, value: i64, width: usize, pad: char| {
        let pad = flags.pad.unwrap_or(pad);
        let width = if pad == '-' { flags.width } else { width.max(flags.width) };
        let digits = value.to_string();
        let fill = if pad == '0' { '0' } else { ' ' };
        out.extend(std::iter::repeat_n(fill, width.saturating_sub(digits.len())));
        out.push_str(&digits);
    };
    let text = |out: &mut String, text: &str| {
        let fill = if flags.pad == Some('0') { '0' } else { ' ' };
        out.extend(std::iter::repeat_n(fill, flags.width.saturating_sub(text.len())));
        if flags.upper && letter != 'P' { out.push_str(&text.to_uppercase()) } else { out.push_str(text) }
    };
    // `%#a` and its like are capitals too.
    let name = |out: &mut String, name: &str| {
        if flags.swap { text(out, &name.to_uppercase()) } else { text(out, name) }
    };
    let compound = |out: &mut String, format: &str| {
        let mut inner = String::new();
        write(&mut inner, moment, format, budget)?;
        text(out, &inner);
        Ok::<_, super::error::Error>(())
    };
    let hour12 = (moment.hour + 11) % 12 + 1;
    let month = MONTHS[(moment.month - 1) as usize];
    let day = DAYS[moment.weekday as usize];
    match letter {
        'Y' => number(out, moment.year, 0, '0'),
        'C' => number(out, moment.year / 100, 2, '0'),
        'y' => number(out, moment.year % 100, 2, '0'),
        'm' => number(out, moment.month, 2, '0'),
        'd' => number(out, moment.day, 2, '0'),
        'e' => number(out, moment.day, 2, '_'),
        'H' => number(out, moment.hour, 2, '0'),
        'I' => number(out, hour12, 2, '0'),
        'k' => number(out, moment.hour, 2, '_'),
        'l' => number(out, hour12, 2, '_'),
        'M' => number(out, moment.minute, 2, '0'),
        'S' => number(out, moment.second, 2, '0'),
        // Python writes microseconds, of which a frozen moment has none.
        'f' if written == "%f" => out.push_str("000000"),
        'j' => number(out, moment.day_of_year + 1, 3, '0'),
        'U' => number(out, (moment.day_of_year + 7 - moment.weekday) / 7, 2, '0'),
        'W' => number(out, (moment.day_of_year + 7 - (moment.weekday + 6) % 7) / 7, 2, '0'),
        'V' => number(out, moment.iso_week().1, 2, '0'),
        'G' => number(out, moment.iso_week().0, 0, '0'),
        'g' => number(out, moment.iso_week().0 % 100, 2, '0'),
        'u' => number(out, (moment.weekday + 6) % 7 + 1, 1, '0'),
        'w' => number(out, moment.weekday, 1, '0'),
        's' => number(out, moment.seconds, 1, '_'),
        'B' => name(out, month),
        'b' | 'h' => name(out, &month[..3]),
        'A' => name(out, day),
        'a' => name(out, &day[..3]),
        'p' => {
            let half = if moment.hour < 12 { "AM" } else { "PM" };
            if flags.swap { text(out, &half.to_lowercase()) } else { text(out, half) }
        }
        'P' => text(out, if moment.hour < 12 { "am" } else { "pm" }),
        'D' | 'x' => compound(out, "%m/%d/%y")?,
        'F' => compound(out, "%Y-%m-%d")?,
        'T' | 'X' => compound(out, "%H:%M:%S")?,
        'R' => compound(out, "%H:%M")?,
        'r' => compound(out, "%I:%M:%S %p")?,
        'c' => compound(out, "%a %b %e %H:%M:%S %Y")?,
        // `datetime.now()` has no time zone, for which Python writes nothing.
        'z' | 'Z' => {}
        'n' => text(out, "\n"),
        't' => text(out, "\t"),
        '%' => text(out, "%"),
        _ => return Ok(false),
    }
    Ok(true)
}
