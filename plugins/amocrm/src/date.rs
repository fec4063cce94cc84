//! Dates as people and programs write them, in seconds since 1970.

use serde_json::Value;

/// Reads a date. `day` means that only the day counts: it is written as noon, so that it is the same day in every
/// account's time zone.
pub(crate) fn seconds(value: &Value, day: bool) -> Option<i64> {
    let at = match value {
        Value::Number(number) => from_number(number.as_i64()?),
        Value::String(text) => from_text(text.trim(), day)?,
        _ => return None,
    };
    (-8_000_000_000..=253_402_300_799).contains(&at).then_some(at)
}

/// Seconds, or milliseconds: what would be later than the year 5000 is meant as those.
fn from_number(number: i64) -> i64 {
    if number.abs() > 100_000_000_000 { number / 1_000 } else { number }
}

fn from_text(text: &str, only_day: bool) -> Option<i64> {
    if let Ok(number) = text.parse() {
        return Some(from_number(number));
    }
    let (date, time) = match text.find(['T', 't', ' ']) {
        Some(at) => (&text[..at], Some(text[at + 1..].trim())),
        None => (text, None),
    };
    let day = days(date)?;
    match time {
        Some(time) if !only_day => Some(day * 86_400 + in_day(time)?),
        _ => Some(day * 86_400 + 43_200),
    }
}

/// `2026-11-22`, `22.11.2026` or `22/11/2026` as days since 1970.
fn days(text: &str) -> Option<i64> {
    let dashed = text.contains('-');
    let mut numbers = text
        .split(if dashed {
            '-'
        } else if text.contains('/') {
            '/'
        } else {
            '.'
        })
        .map(|part| {
            let plain = !part.is_empty() && part.len() <= 4 && part.bytes().all(|b| b.is_ascii_digit());
            part.parse::<i64>().ok().filter(|_| plain)
        });
    let (first, month, last) = (numbers.next()??, numbers.next()??, numbers.next()??);
    let (year, day) = if dashed { (first, last) } else { (last, first) };
    let lengths = [31, if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let length = *lengths.get(usize::try_from(month.checked_sub(1)?).ok()?)?;
    if numbers.next().is_some() || !(1000..=9999).contains(&year) || !(1..=length).contains(&day) {
        return None;
    }
    // Howard Hinnant's days_from_civil, for years after 0.
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * month + 2) / 5 + day - 1;
    Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
}

/// `10:30`, `10:30:15`, with `Z` or `+03:00`, as seconds of the day in UTC. A time without a zone is one of UTC.
fn in_day(text: &str) -> Option<i64> {
    let text = text.trim_end_matches(['Z', 'z']);
    let (clock, zone) = match text.rfind(['+', '-']) {
        Some(at) => (&text[..at], Some((&text[at..=at], &text[at + 1..]))),
        None => (text, None),
    };
    let offset = match zone {
        None => 0,
        Some((sign, zone)) => {
            let zone = if zone.contains(':') {
                parse(zone)?
            } else {
                zone.parse::<i64>().ok().map(|z| if zone.len() > 2 { z / 100 * 3_600 + z % 100 * 60 } else { z * 3_600 })?
            };
            if sign == "-" { -zone } else { zone }
        }
    };
    Some(parse(clock.split('.').next()?)? - offset)
}

fn parse(clock: &str) -> Option<i64> {
    let mut numbers = clock.split(':').map(|part| part.parse::<i64>().ok().filter(|_| part.len() == 2));
    let (hours, minutes) = (numbers.next()??, numbers.next()??);
    let seconds = numbers.next().unwrap_or(Some(0))?;
    let sound = numbers.next().is_none() && (0..24).contains(&hours) && (0..60).contains(&minutes) && (0..60).contains(&seconds);
    sound.then_some(hours * 3_600 + minutes * 60 + seconds)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn dates_are_read_in_the_usual_forms() {
        for (text, day, expected) in [
            (json!("2026-11-22"), true, Some(1_795_348_800)),
            (json!("22.11.2026"), true, Some(1_795_348_800)),
            (json!("22/11/2026 23:59"), true, Some(1_795_348_800)),
            (json!("1970-01-01T00:00:00Z"), false, Some(0)),
            (json!("2026-11-22 10:00"), false, Some(1_795_341_600)),
            (json!("2026-11-22T10:00:00.5+03:00"), false, Some(1_795_330_800)),
            (json!("2026-11-22T10:00:00-0330"), false, Some(1_795_354_200)),
            (json!("2024-02-29"), true, Some(1_709_208_000)),
            (json!(1_795_348_800), true, Some(1_795_348_800)),
            (json!(1_795_348_800_123_i64), false, Some(1_795_348_800)),
            (json!("1795348800"), false, Some(1_795_348_800)),
            (json!("2026-02-29"), true, None),
            (json!("2026-13-01"), true, None),
            (json!("32.01.2026"), true, None),
            (json!("2026-11-22T25:00"), false, None),
            (json!("2026-11-22Tпять"), false, None),
            (json!("завтра"), true, None),
            (json!("1-2"), true, None),
            (json!(true), true, None),
        ] {
            assert_eq!(seconds(&text, day), expected, "{text}");
        }
    }
}
