//! The log of live events: how the changes of one transaction are packed into one row, and what a reader gets.
//!
//! A turn of a busy store changes hundreds of things, so a row is small and made without looking anything up: ids as they
//! are, numbers in as many bytes as they need, and what a change shares with the one before it is left out. Both databases
//! keep the same bytes.

use std::borrow::Cow;

use uuid::Uuid;

use super::StoreError;
use crate::model::{
    BatchCounts, BatchId, BatchStatus, Change, CredentialChange, CredentialId, CredentialState, DeliveryId, DeliveryKind, DeliveryStatus,
    EventPosition, LeadId, LeadStatus, LiveEvent, ProjectId, Timestamp,
};

/// How far the log goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EventLog {
    /// Nothing up to here is kept any more.
    pub pruned_to: EventPosition,
    /// Nothing is behind this yet.
    pub newest: EventPosition,
}

/// Why the log cannot be followed from some place without missing events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// What followed it is not kept any more.
    Pruned,
    /// This log never came so far: it is another database's.
    Unknown,
}

impl EventLog {
    /// Whether whoever has seen everything up to `after` can go on from there.
    pub fn missed(&self, after: EventPosition) -> Option<Missed> {
        if after < self.pruned_to {
            Some(Missed::Pruned)
        } else if after.turn > self.newest.turn {
            Some(Missed::Unknown)
        } else {
            None
        }
    }
}

/// Some events of the log, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct EventPage {
    #[allow(missing_docs)]
    pub events: Vec<LiveEvent>,
    /// Where to go on: behind the last event of the page.
    pub next: EventPosition,
    /// More may follow already.
    pub more: bool,
    /// As far as it went no earlier than the events were read.
    pub log: EventLog,
}

/// The first byte of a row, should rows ever be packed otherwise.
const VERSION: u8 = 1;

const LEAD: u8 = 0;
const BATCH: u8 = 1;
const DELIVERY: u8 = 2;
const CREDENTIAL: u8 = 3;
const KIND: u8 = 0b11;
/// The same as the change before it.
const SAME_PROJECT: u8 = 1 << 2;
const SAME_LEAD: u8 = 1 << 3;
const SAME_BATCH: u8 = 1 << 4;
/// A delivery is due at a time, and is queued again after an attempt; a credential is enabled.
const DUE: u8 = 1 << 5;
const RETRY: u8 = 1 << 6;
const ENABLED: u8 = 1 << 5;
/// A code follows.
const CODE: u8 = 1 << 7;

// A word is packed as its place here: only ever add at the end.
const LEAD_STATUSES: &[LeadStatus] = {
    use LeadStatus::*;
    &[Accepted, Processing, Completed, Partial, Failed, Unrouted]
};
const BATCH_STATUSES: &[BatchStatus] = {
    use BatchStatus::*;
    &[Pending, Completed, Partial, Failed, Cancelled]
};
const DELIVERY_STATUSES: &[DeliveryStatus] = {
    use DeliveryStatus::*;
    &[Queued, Sending, Delivered, Skipped, Failed, InDoubt, Cancelled]
};
const DELIVERY_KINDS: &[DeliveryKind] = {
    use DeliveryKind::*;
    &[Lead, Callback, Notification, Fallback]
};
const CREDENTIAL_STATES: &[CredentialState] = {
    use CredentialState::*;
    &[Active, Paused, Invalid, BreakerOpen, Throttled, PluginMissing]
};
const CREDENTIAL_CHANGES: &[CredentialChange] = {
    use CredentialChange::*;
    &[Created, Updated, Deleted, State, BreakerOpen, PluginFault]
};

/// What a change may share with the one before it.
#[derive(Debug, Default, PartialEq)]
struct Last {
    at: i64,
    project: Uuid,
    lead: Uuid,
    batch: Uuid,
}

/// The changes of one transaction, as they are made.
#[derive(Debug, Default)]
pub struct EventPack {
    body: Vec<u8>,
    last: Last,
    newest: Timestamp,
}

impl EventPack {
    /// Nothing changed.
    pub fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    /// Forgets all changes: the transaction begins, or begins again.
    pub fn clear(&mut self) {
        self.body.clear();
        self.last = Last::default();
        self.newest = Timestamp::default();
    }

    /// The latest time of a change, and the row.
    pub fn row(&self) -> (Timestamp, &[u8]) {
        (self.newest, &self.body)
    }

    /// Adds a change behind those before it.
    pub fn push(&mut self, at: Timestamp, project: ProjectId, change: &Change<'_>) {
        if self.body.is_empty() {
            self.body.push(VERSION);
        }
        self.newest = self.newest.max(at);
        let (lead, batch) = (change.lead().map(LeadId::uuid), change.batch().map(BatchId::uuid));
        let (kind, own) = match change {
            Change::Lead { .. } => (LEAD, 0),
            Change::Batch { .. } => (BATCH, 0),
            Change::Delivery { due_at, retry, code, .. } => {
                (DELIVERY, flag(DUE, due_at.is_some()) | flag(RETRY, *retry) | flag(CODE, code.is_some()))
            }
            Change::Credential { enabled, code, .. } => (CREDENTIAL, flag(ENABLED, *enabled) | flag(CODE, code.is_some())),
        };
        let same_project = self.last.project == project.uuid();
        let (same_lead, same_batch) = (lead == Some(self.last.lead), batch == Some(self.last.batch));
        self.body.push(kind | own | flag(SAME_PROJECT, same_project) | flag(SAME_LEAD, same_lead) | flag(SAME_BATCH, same_batch));
        self.signed(at.as_millis().wrapping_sub(self.last.at));
        let shared = [(same_project, Some(project.uuid())), (same_lead, lead), (same_batch, batch)];
        for id in shared.into_iter().filter(|(same, _)| !same).filter_map(|(_, id)| id) {
            self.id(id);
        }
        self.last = Last {
            at: at.as_millis(),
            project: project.uuid(),
            lead: lead.unwrap_or(self.last.lead),
            batch: batch.unwrap_or(self.last.batch),
        };
        self.rest(at, change);
    }

    /// What is a change's own.
    fn rest(&mut self, at: Timestamp, change: &Change<'_>) {
        match change {
            Change::Lead { status, .. } => self.word(LEAD_STATUSES, *status),
            Change::Batch { status, counts, .. } => {
                self.word(BATCH_STATUSES, *status);
                for count in in_order(*counts) {
                    self.number(count.into());
                }
            }
            Change::Delivery { delivery, credential, channel, kind, status, due_at, code, .. } => {
                self.id(delivery.uuid());
                self.id(credential.uuid());
                self.word(DELIVERY_KINDS, *kind);
                self.word(DELIVERY_STATUSES, *status);
                self.text(channel);
                if let Some(due_at) = due_at {
                    self.signed(due_at.as_millis().wrapping_sub(at.as_millis()));
                }
                code.iter().for_each(|code| self.text(code));
            }
            Change::Credential { credential, channel, what, state, code, .. } => {
                self.id(credential.uuid());
                self.word(CREDENTIAL_CHANGES, *what);
                self.word(CREDENTIAL_STATES, *state);
                self.text(channel);
                code.iter().for_each(|code| self.text(code));
            }
        }
    }

    fn id(&mut self, id: Uuid) {
        self.body.extend_from_slice(id.as_bytes());
    }

    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.body.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.body.push(number as u8);
    }

    /// Small ones of either sign are short.
    fn signed(&mut self, number: i64) {
        self.number(((number << 1) ^ (number >> 63)) as u64);
    }

    fn word<T: PartialEq>(&mut self, words: &[T], word: T) {
        // Every word is in its list: a test asks for each.
        self.body.push(words.iter().position(|known| *known == word).map_or(u8::MAX, |place| place as u8));
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.body.extend_from_slice(text.as_bytes());
    }
}

fn flag(bit: u8, set: bool) -> u8 {
    if set { bit } else { 0 }
}

fn in_order(counts: BatchCounts) -> [u32; 7] {
    let BatchCounts { total, pending, delivered, skipped, failed, in_doubt, cancelled } = counts;
    [total, pending, delivered, skipped, failed, in_doubt, cancelled]
}

/// Reads a row's events, in order.
pub struct Unpack<'a> {
    left: &'a [u8],
    position: EventPosition,
    last: Last,
}

impl<'a> Unpack<'a> {
    /// The row of the transaction `turn`.
    pub fn new(turn: u64, body: &'a [u8]) -> Result<Self, StoreError> {
        match body.split_first() {
            Some((&VERSION, left)) => Ok(Self { left, position: EventPosition { turn, index: 0 }, last: Last::default() }),
            _ => Err(damaged()),
        }
    }

    fn event(&mut self) -> Result<LiveEvent, StoreError> {
        let flags = self.byte()?;
        let has = |bit: u8| flags & bit != 0;
        let at = self.last.at.wrapping_add(self.signed()?);
        let project = if has(SAME_PROJECT) { self.last.project } else { self.id()? };
        let about_lead = flags & KIND != CREDENTIAL;
        let lead = if has(SAME_LEAD) || !about_lead { self.last.lead } else { self.id()? };
        let batch = if has(SAME_BATCH) || !about_lead { self.last.batch } else { self.id()? };
        self.last = Last { at, project, lead, batch };
        let (lead, batch) = (LeadId::from_uuid(lead), BatchId::from_uuid(batch));
        let change = match flags & KIND {
            LEAD => Change::Lead { lead, batch, status: self.word(LEAD_STATUSES)? },
            BATCH => {
                let status = self.word(BATCH_STATUSES)?;
                let mut count = || u32::try_from(self.number()?).map_err(|_| damaged());
                let (total, pending, delivered) = (count()?, count()?, count()?);
                let (skipped, failed, in_doubt, cancelled) = (count()?, count()?, count()?, count()?);
                let counts = BatchCounts { total, pending, delivered, skipped, failed, in_doubt, cancelled };
                Change::Batch { batch, lead, status, counts }
            }
            DELIVERY => {
                let (delivery, credential) = (DeliveryId::from_uuid(self.id()?), CredentialId::from_uuid(self.id()?));
                let (kind, status) = (self.word(DELIVERY_KINDS)?, self.word(DELIVERY_STATUSES)?);
                let channel = self.text()?;
                let due_at = if has(DUE) { Some(Timestamp::from_millis(at.wrapping_add(self.signed()?))) } else { None };
                let code = if has(CODE) { Some(self.text()?) } else { None };
                Change::Delivery { delivery, batch, lead, credential, channel, kind, status, due_at, retry: has(RETRY), code }
            }
            _ => {
                let credential = CredentialId::from_uuid(self.id()?);
                let (what, state) = (self.word(CREDENTIAL_CHANGES)?, self.word(CREDENTIAL_STATES)?);
                let channel = self.text()?;
                let code = if has(CODE) { Some(self.text()?) } else { None };
                Change::Credential { credential, channel, what, enabled: has(ENABLED), state, code }
            }
        };
        self.position.index += 1;
        Ok(LiveEvent { position: self.position, at: Timestamp::from_millis(at), project: ProjectId::from_uuid(project), change })
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], StoreError> {
        let (taken, left) = self.left.split_at_checked(count).ok_or_else(damaged)?;
        self.left = left;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, StoreError> {
        self.take(1).map(|byte| byte[0])
    }

    fn id(&mut self) -> Result<Uuid, StoreError> {
        Uuid::from_slice(self.take(16)?).map_err(|_| damaged())
    }

    fn number(&mut self) -> Result<u64, StoreError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(damaged())
    }

    fn signed(&mut self) -> Result<i64, StoreError> {
        let number = self.number()?;
        Ok((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    fn word<T: Copy>(&mut self, words: &[T]) -> Result<T, StoreError> {
        let place = self.byte()?;
        words.get(usize::from(place)).copied().ok_or_else(damaged)
    }

    fn text(&mut self) -> Result<Cow<'static, str>, StoreError> {
        let length = usize::try_from(self.number()?).map_err(|_| damaged())?;
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| damaged())?;
        Ok(Cow::Owned(text.to_owned()))
    }
}

impl Iterator for Unpack<'_> {
    type Item = Result<LiveEvent, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left.is_empty() {
            return None;
        }
        let event = self.event();
        if event.is_err() {
            self.left = &[];
        }
        Some(event)
    }
}

fn damaged() -> StoreError {
    StoreError::Defect("a row of events cannot be read".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(1_767_225_600_000 + ms)
    }

    /// One of each kind, with each word at least once.
    fn changes() -> Vec<(Timestamp, ProjectId, Change<'static>)> {
        let (one, other) = (ProjectId::new(at(0)), ProjectId::new(at(0)));
        let (lead, batch, credential) = (LeadId::new(at(0)), BatchId::new(at(0)), CredentialId::new(at(0)));
        let mut all = Vec::new();
        all.extend(LEAD_STATUSES.iter().map(|status| (at(5), one, Change::Lead { lead, batch, status: *status })));
        let counts = BatchCounts { total: 700, pending: 1, delivered: 2, skipped: 3, failed: 4, in_doubt: 5, cancelled: 685 };
        all.extend(BATCH_STATUSES.iter().map(|status| (at(3), one, Change::Batch { batch, lead, status: *status, counts })));
        for (n, status) in DELIVERY_STATUSES.iter().enumerate() {
            let change = Change::Delivery {
                delivery: DeliveryId::new(at(0)),
                batch: if n % 2 == 0 { batch } else { BatchId::new(at(1)) },
                lead: if n % 3 == 0 { lead } else { LeadId::new(at(1)) },
                credential,
                channel: Cow::Borrowed("webhook"),
                kind: DELIVERY_KINDS[n % 4],
                status: *status,
                due_at: (n == 0).then(|| at(-90_000_000)),
                retry: n == 0,
                code: (n == 4).then(|| Cow::Owned("x".repeat(200))),
            };
            all.push((at(4), if n % 2 == 0 { one } else { other }, change));
        }
        for (n, state) in CREDENTIAL_STATES.iter().enumerate() {
            let (what, code) = (CREDENTIAL_CHANGES[n], (n == 2).then_some(Cow::Borrowed("unauthorized")));
            let change = Change::Credential { credential, channel: Cow::Borrowed("email"), what, enabled: n % 2 == 0, state: *state, code };
            all.push((at(-1), other, change));
        }
        all
    }

    #[test]
    fn what_is_packed_comes_out_again() {
        let mut pack = EventPack::default();
        for (at, project, change) in changes() {
            pack.push(at, project, &change);
        }
        let (newest, body) = pack.row();
        assert_eq!(newest, at(5));
        let read: Vec<LiveEvent> = Unpack::new(7, body).unwrap().map(Result::unwrap).collect();
        assert_eq!(read.len(), changes().len());
        assert!(read.iter().zip(1..).all(|(event, index)| event.position == EventPosition { turn: 7, index }));
        let mut again = EventPack::default();
        read.iter().for_each(|event| again.push(event.at, event.project, &event.change));
        assert_eq!(again.row(), (newest, body));
        pack.clear();
        assert!(pack.is_empty());
    }

    #[test]
    fn a_damaged_row_is_an_error_wherever_it_ends() {
        let mut pack = EventPack::default();
        let (at, project, change) = changes().remove(14);
        pack.push(at, project, &change);
        let (_, body) = pack.row();
        assert!(Unpack::new(1, &[]).is_err() && Unpack::new(1, &[9]).is_err());
        for end in 2..body.len() {
            let read: Vec<_> = Unpack::new(1, &body[..end]).unwrap().collect();
            assert!(matches!(read.as_slice(), [Err(StoreError::Defect(_))]), "{end}: {read:?}");
        }
    }

    #[test]
    fn a_lead_with_three_deliveries_takes_little_room() {
        let (project, lead, batch) = (ProjectId::new(at(0)), LeadId::new(at(0)), BatchId::new(at(0)));
        let mut pack = EventPack::default();
        pack.push(at(0), project, &Change::Lead { lead, batch, status: LeadStatus::Accepted });
        let counts = BatchCounts { total: 3, pending: 3, ..BatchCounts::default() };
        pack.push(at(0), project, &Change::Batch { batch, lead, status: BatchStatus::Pending, counts });
        for _ in 0..3 {
            let (delivery, credential) = (DeliveryId::new(at(0)), CredentialId::new(at(0)));
            let (kind, status, channel) = (DeliveryKind::Lead, DeliveryStatus::Queued, Cow::Borrowed("webhook"));
            let due_at = Some(at(0));
            pack.push(
                at(0),
                project,
                &Change::Delivery { delivery, batch, lead, credential, channel, kind, status, due_at, retry: false, code: None },
            );
        }
        assert!(pack.row().1.len() < 220, "{}", pack.row().1.len());
    }

    #[test]
    fn who_missed_something_is_told() {
        let log = EventLog { pruned_to: EventPosition::end_of(4), newest: EventPosition::end_of(9) };
        assert_eq!(log.missed(EventPosition { turn: 4, index: 3 }), Some(Missed::Pruned));
        assert_eq!(log.missed(EventPosition::end_of(4)), None);
        assert_eq!(log.missed(EventPosition { turn: 9, index: 1 }), None);
        assert_eq!(log.missed(EventPosition { turn: 10, index: 0 }), Some(Missed::Unknown));
    }
}
