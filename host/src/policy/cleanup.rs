//! When a clean-up is due, and what is too old then.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Zoned;
use jiff::tz::TimeZone;

use crate::model::{RetentionSettings, Timestamp};

/// Milliseconds of a day.
const DAY_MS: i64 = 86_400_000;
/// The longest age that can be set: a hundred years.
pub const MAX_DAYS: u32 = 36_500;

/// The times of day, as a cron expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    cron: Cron,
    text: String,
}

impl Schedule {
    /// Five fields (minute, hour, day of month, month, day of week). `None`: it is none, or its time never comes.
    pub fn parse(text: &str) -> Option<Self> {
        let cron = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build().parse(text).ok()?;
        let schedule = Self { cron, text: text.trim().to_owned() };
        schedule.next(&TimeZone::UTC, Timestamp::from_millis(0)).map(|_| schedule)
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The first time after `now`.
    pub fn next(&self, zone: &TimeZone, now: Timestamp) -> Option<Timestamp> {
        let found = self.cron.find_next_occurrence(&zoned(zone, now)?, false).ok()?;
        Some(Timestamp::from_millis(found.timestamp().as_millisecond()))
    }

    /// The time that has come since `done`, the last one that was taken; several that were missed are one. A time that the
    /// clocks show twice, when they go back, comes once.
    pub fn due(&self, zone: &TimeZone, now: Timestamp, done: Timestamp) -> Option<Timestamp> {
        let last = self.cron.find_previous_occurrence(&zoned(zone, now)?, true).ok()?;
        let (at, civil) = (Timestamp::from_millis(last.timestamp().as_millisecond()), last.datetime());
        (at > done && civil > zoned(zone, done)?.datetime()).then_some(at)
    }
}

fn zoned(zone: &TimeZone, at: Timestamp) -> Option<Zoned> {
    Some(jiff::Timestamp::from_millisecond(at.as_millis()).ok()?.to_zoned(zone.clone()))
}

/// The zone with this IANA name, from the table in the binary.
pub fn time_zone(name: &str) -> Option<TimeZone> {
    TimeZone::get(name).ok()
}

/// How long each kind of thing is kept, in days; 0: for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct Ages {
    /// Leads with their batches, deliveries and attempts, counted from when they were last sent.
    pub leads_days: u32,
    /// Attempts of deliveries that have ended, and tasks that have ended.
    pub attempts_days: u32,
    /// What `/api/events` can repeat.
    pub events_days: u32,
    /// The audit log.
    pub audit_days: u32,
}

impl Ages {
    /// With a project's own in their place.
    pub fn of(self, project: &RetentionSettings) -> Self {
        let leads_days = project.leads_days.unwrap_or(self.leads_days);
        Self { leads_days, attempts_days: project.attempts_days.unwrap_or(self.attempts_days), ..self }
    }
}

/// What was made before this is too old. `None`: nothing ever is.
pub fn before(now: Timestamp, days: u32) -> Option<Timestamp> {
    (days > 0).then(|| Timestamp::from_millis(now.as_millis().saturating_sub(i64::from(days) * DAY_MS)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    /// The times at which a clean-up begins when one looks every ten minutes.
    fn begins(cron: &str, zone: &str, from: &str, to: &str) -> Vec<String> {
        let (schedule, zone) = (Schedule::parse(cron).unwrap(), time_zone(zone).unwrap());
        let (mut now, mut done, mut all) = (at(from), at(from), Vec::new());
        while now <= at(to) {
            if let Some(due) = schedule.due(&zone, now, done) {
                done = due;
                all.push(due.to_string());
            }
            now = now.plus(std::time::Duration::from_secs(600));
        }
        all
    }

    #[test]
    fn it_is_two_o_clock_where_the_project_is() {
        let days = begins("0 2 * * *", "Europe/Moscow", "2026-11-22T10:00:00Z", "2026-11-24T22:59:00Z");
        assert_eq!(days, ["2026-11-22T23:00:00Z", "2026-11-23T23:00:00Z"]);
        let days = begins("0 2 * * *", "America/New_York", "2026-11-22T10:00:00Z", "2026-11-23T10:00:00Z");
        assert_eq!(days, ["2026-11-23T07:00:00Z"]);
    }

    #[test]
    fn it_comes_once_on_the_days_on_which_the_clocks_change() {
        // On 25 October 2026 it is two o'clock twice in Berlin, on 29 March never.
        let autumn = begins("0 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z");
        assert_eq!(autumn.len(), 2, "{autumn:?}");
        let autumn = begins("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z");
        assert_eq!(autumn.len(), 2, "{autumn:?}");
        let spring = begins("0 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-30T12:00:00Z");
        assert_eq!(spring.len(), 2, "{spring:?}");
    }

    #[test]
    fn what_was_missed_is_made_up_for_once() {
        let (schedule, zone) = (Schedule::parse("0 2 * * *").unwrap(), TimeZone::UTC);
        let (done, now) = (at("2026-11-01T02:00:00Z"), at("2026-11-22T10:00:00Z"));
        let due = schedule.due(&zone, now, done).unwrap();
        assert_eq!(due, at("2026-11-22T02:00:00Z"));
        assert_eq!(schedule.due(&zone, now, due), None);
        assert_eq!(schedule.due(&zone, at("2026-11-20T10:00:00Z"), due), None, "a clock that was set back");
        assert_eq!(schedule.next(&zone, now), Some(at("2026-11-23T02:00:00Z")));
    }

    #[test]
    fn expressions_that_never_come_are_refused() {
        for text in ["", "2", "0 2 * *", "61 2 * * *", "0 0 2 * * *", "0 0 31 2 *", "at two"] {
            assert_eq!(Schedule::parse(text), None, "{text}");
        }
        assert_eq!(Schedule::parse(" 15 3 * * SUN ").unwrap().text(), "15 3 * * SUN");
        assert!(time_zone("Europe/Moscow").is_some() && time_zone("UTC").is_some() && time_zone("Europe/Moskau").is_none());
    }

    #[test]
    fn a_project_may_keep_longer_or_for_ever() {
        let host = Ages { leads_days: 365, attempts_days: 30, events_days: 3, audit_days: 400 };
        assert_eq!(host.of(&RetentionSettings::default()), host);
        let own = host.of(&RetentionSettings { leads_days: Some(0), attempts_days: Some(7) });
        assert_eq!((own.leads_days, own.attempts_days, own.audit_days), (0, 7, 400));
        let now = at("2026-11-22T10:00:00Z");
        assert_eq!((before(now, 0), before(now, 2)), (None, Some(at("2026-11-20T10:00:00Z"))));
    }
}
