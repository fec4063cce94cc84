//! Requests to the portal: batches of commands, what each of them came to, and the running time that the portal counts.

use std::cell::Cell;
use std::collections::BTreeMap;

use leadwire_sdk::{Context, Stop, log};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

use crate::{Config, command::Command, fault::Fault, fault::code_text};

/// Commands of one batch.
const COMMANDS: usize = 50;
/// Bytes of one batch's commands, well below what a portal's server takes.
const BYTES: usize = 1 << 20;
/// The portal ends a request after 60 s.
const TIMEOUT_MS: u64 = 65_000;
/// With less than this left of a call, no further batch is begun.
const LEAST_MS: u64 = 5_000;
/// Running time of a method, of the 480 s that the cloud allows in ten minutes, at which we wait for the count to begin anew.
const OPERATING_S: f64 = 400.0;
/// From here on the moment of the new count is remembered, for a refusal that does not tell it.
const WORTH_NOTING_S: f64 = 60.0;
/// When it is not known when the count begins anew.
const UNKNOWN_RESET_MS: u32 = 60_000;
/// Longest such wait: the count is of ten minutes.
const LONGEST_RESET_MS: u64 = 15 * 60_000;

/// The portal, for one call.
pub(crate) struct Portal<'a> {
    ctx: &'a Context<Config>,
    began_ms: u64,
    /// The longest running time of a method, in seconds, and when its count begins anew.
    operating: Cell<(f64, u64)>,
}

/// What the commands of a batch came to.
#[derive(Debug)]
pub(crate) struct Replies {
    results: BTreeMap<String, Box<RawValue>>,
    errors: BTreeMap<String, PortalError>,
}

#[derive(Serialize)]
struct Body<'a> {
    halt: u8,
    cmd: Lines<'a>,
}

/// In the order given: a command can refer to those before it.
struct Lines<'a>(&'a [Command]);

impl Serialize for Lines<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|command| (&command.name, command.line())))
    }
}

#[derive(Debug, Deserialize)]
struct PortalError {
    #[serde(default)]
    error: Value,
    #[serde(default)]
    error_description: Value,
}

#[derive(Debug, Deserialize)]
struct Envelope {
    result: Option<Box<RawValue>>,
    error: Option<Value>,
    #[serde(default)]
    error_description: Value,
}

#[derive(Debug, Deserialize)]
struct Batch {
    #[serde(default, deserialize_with = "map_or_list")]
    result: BTreeMap<String, Box<RawValue>>,
    #[serde(default, deserialize_with = "map_or_list")]
    result_error: BTreeMap<String, Box<RawValue>>,
    #[serde(default, deserialize_with = "map_or_list")]
    result_time: BTreeMap<String, Box<RawValue>>,
}

#[derive(Debug, Deserialize)]
struct Time {
    #[serde(default)]
    operating: f64,
    #[serde(default)]
    operating_reset_at: u64,
}

/// PHP writes an empty map as an empty list.
fn map_or_list<'de, D: Deserializer<'de>>(input: D) -> Result<BTreeMap<String, Box<RawValue>>, D::Error> {
    let raw = <Box<RawValue>>::deserialize(input)?;
    if raw.get().starts_with('{') { serde_json::from_str(raw.get()).map_err(serde::de::Error::custom) } else { Ok(BTreeMap::new()) }
}

impl Replies {
    /// Every batch of a look together.
    fn join(&mut self, other: Self) {
        self.results.extend(other.results);
        self.errors.extend(other.errors);
    }

    /// The command's result.
    pub(crate) fn get<T: DeserializeOwned>(&self, name: &str) -> Result<T, Fault> {
        if let Some(error) = self.errors.get(name) {
            return Err(Fault::of(200, &code_text(&error.error), error.error_description.as_str().unwrap_or_default()));
        }
        let unreadable = |text: String| Fault::Trouble { code: "answer_unreadable".into(), text, maybe: true };
        let result = self.results.get(name).ok_or_else(|| unreadable("the portal's answer says nothing of this command".into()))?;
        serde_json::from_str(result.get()).map_err(|error| unreadable(format!("the portal's answer cannot be read: {error}")))
    }
}

impl<'a> Portal<'a> {
    pub(crate) fn new(ctx: &'a Context<Config>) -> Self {
        Self { ctx, began_ms: ctx.now_ms(), operating: Cell::new((0.0, 0)) }
    }

    /// Commands that only read. A preview sends them too, as a request that changes nothing.
    pub(crate) fn look(&self, commands: Vec<Command>) -> Result<Replies, Fault> {
        let mut all = Replies { results: BTreeMap::new(), errors: BTreeMap::new() };
        for batch in batches(commands.into_iter().map(|command| vec![command]).collect()) {
            all.join(self.send(&batch, self.ctx.dry_run)?);
        }
        Ok(all)
    }

    /// Commands that write, one batch of [`batches`].
    pub(crate) fn write(&self, batch: &[Command]) -> Result<Replies, Fault> {
        self.send(batch, false)
    }

    /// Whether there is time for one more batch.
    pub(crate) fn has_time(&self) -> bool {
        self.left_ms() >= LEAST_MS
    }

    fn left_ms(&self) -> u64 {
        u64::from(self.ctx.budget_ms).saturating_sub(self.ctx.now_ms().saturating_sub(self.began_ms))
    }

    fn send(&self, commands: &[Command], by_get: bool) -> Result<Replies, Fault> {
        let timeout_ms = u32::try_from(self.left_ms().min(TIMEOUT_MS)).unwrap_or(u32::MAX);
        let request = if by_get {
            let request = self.ctx.http().get("batch").query("halt", "0");
            commands.iter().fold(request, |request, command| request.query(&format!("cmd[{}]", command.name), &command.line()))
        } else {
            self.ctx.http().post("batch").json(&Body { halt: 0, cmd: Lines(commands) })
        };
        let answer = request.header("accept", "application/json").timeout_ms(timeout_ms).send().map_err(|lost| Fault::lost(&lost))?;
        let Ok(envelope) = answer.json::<Envelope>() else { return Err(Fault::unreadable(&answer)) };
        if let Some(code) = &envelope.error {
            return Err(Fault::of(answer.status, &code_text(code), envelope.error_description.as_str().unwrap_or_default()));
        }
        let batch = envelope.result.filter(|_| answer.is_success()).and_then(|result| serde_json::from_str::<Batch>(result.get()).ok());
        let Some(batch) = batch else { return Err(Fault::unreadable(&answer)) };
        self.note_times(&batch.result_time);
        let errors = batch.result_error.into_iter().filter_map(|(name, raw)| Some((name, serde_json::from_str(raw.get()).ok()?)));
        Ok(Replies { results: batch.result, errors: errors.collect() })
    }

    fn note_times(&self, times: &BTreeMap<String, Box<RawValue>>) {
        let times = times.values().filter_map(|raw| serde_json::from_str::<Time>(raw.get()).ok());
        let Some(most) = times.max_by(|a, b| a.operating.total_cmp(&b.operating)) else { return };
        if most.operating > self.operating.get().0 {
            self.operating.set((most.operating, most.operating_reset_at));
            let told = most.operating_reset_at.to_string();
            if most.operating >= WORTH_NOTING_S && self.ctx.kv().set(&self.reset_key(), told.as_bytes(), Some(900)).is_err() {
                log::warn("the end of the portal's count of running time could not be stored");
            }
        }
    }

    fn reset_key(&self) -> String {
        format!("operating_reset_at:{}", self.ctx.config.portal)
    }

    /// How long until the portal counts a method's running time anew.
    pub(crate) fn operating_ms(&self) -> u32 {
        let stored = || self.ctx.kv().get_text(&self.reset_key()).ok().flatten().and_then(|text| text.parse().ok());
        let told = Some(self.operating.get().1).filter(|at| *at > 0).or_else(stored).unwrap_or_default();
        match told.saturating_mul(1000).saturating_sub(self.ctx.now_ms()) {
            0 => UNKNOWN_RESET_MS,
            ms => u32::try_from(ms.min(LONGEST_RESET_MS)).unwrap_or(UNKNOWN_RESET_MS),
        }
    }

    /// Stops before the portal does it: a method that is blocked is blocked for everybody who uses the webhook.
    pub(crate) fn rest_if_tired(&self) -> Result<(), Stop> {
        if self.operating.get().0 < OPERATING_S {
            return Ok(());
        }
        log::warn("the portal's limit of running time is near, so the next leads wait until it counts anew");
        Err(Stop::rate_limited(Some(self.operating_ms())))
    }
}

/// Groups of commands as batches; what is in one group stays together, because its commands refer to each other.
pub(crate) fn batches(groups: Vec<Vec<Command>>) -> Vec<Vec<Command>> {
    let mut all: Vec<Vec<Command>> = Vec::new();
    let mut bytes = 0;
    for group in groups {
        let more: usize = group.iter().map(|command| command.line().len()).sum();
        match all.last_mut() {
            Some(last) if last.len() + group.len() <= COMMANDS && bytes + more <= BYTES => {
                bytes += more;
                last.extend(group);
            }
            _ => {
                bytes = more;
                all.push(group);
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(groups: Vec<Vec<Command>>) -> Vec<usize> {
        batches(groups).iter().map(Vec::len).collect()
    }

    #[test]
    fn batches_hold_fifty_commands_and_keep_groups_whole() {
        let pair = |no: usize| vec![Command::new(format!("d{no}"), "a"), Command::new(format!("n{no}"), "b")];
        assert_eq!(sizes((0..60).map(pair).collect()), [50, 50, 20]);
        let odd = (0..3).map(|_| (0..20).map(|no| Command::new(format!("x{no}"), "a")).collect()).collect();
        assert_eq!(sizes(odd), [40, 20], "no group is split");
        assert_eq!(sizes(Vec::new()), Vec::<usize>::new());
    }

    #[test]
    fn large_commands_make_smaller_batches() {
        let large = |no: usize| vec![Command::new(format!("d{no}"), "a").with("x", "я".repeat(60_000))];
        assert_eq!(sizes((0..4).map(large).collect()), [2, 2]);
    }
}
