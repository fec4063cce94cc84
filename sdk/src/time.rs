//! Times in the two written forms that remote sides use.

use std::time::{Duration, UNIX_EPOCH};

/// Milliseconds since 1970 as `2026-01-01T00:00:00Z`, with milliseconds when there are any.
pub fn rfc3339(ms: u64) -> String {
    // The last millisecond of the year 9999: what lies behind it cannot be written in four digits.
    let time = UNIX_EPOCH + Duration::from_millis(ms.min(253_402_300_799_999));
    if ms.is_multiple_of(1000) {
        humantime::format_rfc3339_seconds(time).to_string()
    } else {
        humantime::format_rfc3339_millis(time).to_string()
    }
}

/// `Retry-After` in milliseconds: seconds or an HTTP date. At most a day; what cannot be read is as if it were not there.
pub(crate) fn retry_after_ms(value: &str, now_ms: u64) -> Option<u32> {
    const DAY_MS: u64 = 24 * 60 * 60 * 1000;
    let value = value.trim();
    let ms = match value.parse::<u64>() {
        Ok(seconds) => seconds.saturating_mul(1000),
        Err(_) => {
            let at = httpdate::parse_http_date(value).ok()?.duration_since(UNIX_EPOCH).ok()?;
            u64::try_from(at.as_millis()).ok()?.saturating_sub(now_ms)
        }
    };
    u32::try_from(ms.min(DAY_MS)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339() {
        assert_eq!(rfc3339(1_767_225_600_000), "2026-01-01T00:00:00Z");
        assert_eq!(rfc3339(1_767_225_600_120), "2026-01-01T00:00:00.120Z");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_at_most_a_day() {
        let now = 784_111_777_000; // Sun, 06 Nov 1994 08:49:37 GMT
        assert_eq!(retry_after_ms(" 7 ", now), Some(7_000));
        assert_eq!(retry_after_ms("Sun, 06 Nov 1994 08:50:37 GMT", now), Some(60_000));
        assert_eq!(retry_after_ms("Sun, 06 Nov 1994 08:00:00 GMT", now), Some(0));
        assert_eq!(retry_after_ms("99999999999999999999", now), None);
        assert_eq!(retry_after_ms("9999999999", now), Some(86_400_000));
        for unreadable in ["", "-5", "soon", "1.5"] {
            assert_eq!(retry_after_ms(unreadable, now), None, "{unreadable}");
        }
    }
}
