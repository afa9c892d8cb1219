//! Dates and times as Arrow prints them: `2024-01-31`, `2024-01-31 12:00:00.250`, with `Z` where the column has a time zone.

use std::fmt::Write as _;

/// Days of the era of Gregorian dates from 0000-03-01 to 1970-01-01.
const EPOCH: i64 = 719_468;
const SECONDS_A_DAY: i64 = 86_400;
/// Years that are printed: what Arrow's own dates reach.
const YEARS: i64 = 262_000;

/// A date, so many days behind 1970-01-01; none for one that no calendar has.
pub(crate) fn date(days: i64) -> Option<String> {
    // Hinnant's algorithm: eras of 400 years, years that begin in March.
    let shifted = days.checked_add(EPOCH)?;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    if !(-YEARS..=YEARS).contains(&year) {
        return None;
    }
    let sign = if year < 0 { "-" } else { "" };
    Some(format!("{sign}{:04}-{month:02}-{day:02}", year.abs()))
}

/// A time of day, so many parts of a second behind midnight, with `digits` behind the point.
pub(crate) fn time(parts: i64, digits: u32) -> Option<String> {
    let parts_a_second = 10_i64.pow(digits);
    let seconds = parts.div_euclid(parts_a_second);
    if !(0..SECONDS_A_DAY).contains(&seconds) {
        return None;
    }
    let mut text = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    if digits > 0 {
        let _ = write!(text, ".{:0width$}", parts.rem_euclid(parts_a_second), width = digits as usize);
    }
    Some(text)
}

/// An instant, so many parts of a second behind 1970-01-01 00:00:00.
pub(crate) fn instant(parts: i64, digits: u32, has_zone: bool) -> Option<String> {
    let parts_a_day = SECONDS_A_DAY * 10_i64.pow(digits);
    let (days, rest) = (parts.div_euclid(parts_a_day), parts.rem_euclid(parts_a_day));
    Some(format!("{} {}{}", date(days)?, time(rest, digits)?, if has_zone { "Z" } else { "" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (days, text) in [
            (0, "1970-01-01"),
            (-1, "1969-12-31"),
            (59, "1970-03-01"),
            (11_016, "2000-02-29"),
            (19_782, "2024-02-29"),
            (19_783, "2024-03-01"),
            (-719_528, "0000-01-01"),
            (-719_529, "-0001-12-31"),
            (2_932_896, "9999-12-31"),
        ] {
            assert_eq!(date(days).as_deref(), Some(text), "{days}");
        }
        assert_eq!([date(i64::MAX), date(i64::MIN), date(i64::MAX - EPOCH)], [None, None, None]);
    }

    #[test]
    fn times_have_the_digits_of_their_unit() {
        assert_eq!(time(3_661, 0).unwrap(), "01:01:01");
        assert_eq!(time(86_399_999, 3).unwrap(), "23:59:59.999");
        assert_eq!([time(-1, 0), time(86_400, 0)], [None, None]);
        assert_eq!(instant(1_706_702_400_250, 3, false).unwrap(), "2024-01-31 12:00:00.250");
        assert_eq!(instant(-1, 6, true).unwrap(), "1969-12-31 23:59:59.999999Z");
        assert!(instant(i64::MIN, 9, false).is_some() && instant(i64::MAX, 0, false).is_none());
    }
}
