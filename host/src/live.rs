//! Following what changes: the newest events in memory, shared by all who follow, and places for those who do.
//!
//! The log in the store is the only source. Whoever follows asks for what is behind a position, live and after a cut alike,
//! so there is nothing between the two that could be missed or doubled. Memory only saves reading the same rows once for
//! each who follows; with nobody there, nothing is read.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::config::EventLimits;
use crate::model::{EventPosition, KeyId, LiveEvent};
use crate::store::{Missed, Store, StoreError};

/// Events that one question to the store asks for.
const PAGE: u32 = 256;
/// Events kept in memory.
const KEPT: usize = 4_096;

/// What is live. One for the process.
pub struct Live {
    store: Arc<dyn Store>,
    newest: tokio::sync::Mutex<Newest>,
    places: Arc<Places>,
    keys: watch::Sender<u64>,
    /// Streams that outlive their request's connection task; waited for at a stop.
    pub tasks: TaskTracker,
}

/// What followed a position.
#[derive(Debug, Clone, PartialEq)]
pub enum Followed {
    /// Perhaps nothing.
    Events {
        #[allow(missing_docs)]
        events: Vec<Arc<LiveEvent>>,
        /// Go on behind this.
        next: EventPosition,
        /// There may be more already.
        more: bool,
    },
    /// It cannot be followed without missing events.
    Missed {
        #[allow(missing_docs)]
        why: Missed,
        /// Where to go on: before the oldest event that is kept, or, for a position that is not of this log, at its end.
        resume: EventPosition,
    },
}

/// The events behind `from` up to `to`.
#[derive(Default)]
struct Newest {
    events: VecDeque<Arc<LiveEvent>>,
    from: EventPosition,
    to: EventPosition,
}

impl Newest {
    fn behind(&self, after: EventPosition) -> Vec<Arc<LiveEvent>> {
        let first = self.events.partition_point(|event| event.position <= after);
        self.events.range(first..).take(PAGE as usize).cloned().collect()
    }

    fn add(&mut self, events: &[Arc<LiveEvent>], next: EventPosition) {
        self.events.extend(events.iter().cloned());
        self.to = next;
        while self.events.len() > KEPT {
            self.from = self.events.pop_front().map_or(self.from, |event| event.position);
        }
    }
}

impl Live {
    /// Over the store's log.
    pub fn new(store: Arc<dyn Store>, limits: &EventLimits) -> Self {
        let places = Places { most: limits.streams, per_key: limits.per_key, taken: Mutex::default() };
        let (newest, keys) = (tokio::sync::Mutex::default(), watch::Sender::new(0));
        Self { store, newest, places: Arc::new(places), keys, tasks: TaskTracker::new() }
    }

    /// Where the log ends now.
    pub async fn end(&self) -> Result<EventPosition, StoreError> {
        Ok(self.store.event_log().await?.newest)
    }

    /// Changes whenever there may be something behind the end.
    pub fn written(&self) -> watch::Receiver<u64> {
        self.store.events_written()
    }

    /// Changes when a key was revoked or written.
    pub fn keys(&self) -> watch::Receiver<u64> {
        self.keys.subscribe()
    }

    /// A key was revoked or written: who follows with it looks at it again.
    pub fn keys_changed(&self) {
        self.keys.send_modify(|times| *times = times.wrapping_add(1));
    }

    /// What follows `after`.
    pub async fn after(&self, after: EventPosition) -> Result<Followed, StoreError> {
        let mut newest = self.newest.lock().await;
        if newest.from <= after && after < newest.to {
            let events = newest.behind(after);
            let full = events.len() == PAGE as usize;
            let next = if full { events.last().map_or(newest.to, |last| last.position) } else { newest.to };
            return Ok(Followed::Events { events, next, more: true });
        }
        if after < newest.from {
            // Who catches up reads for himself, and keeps nobody waiting.
            drop(newest);
            return self.read(after).await;
        }
        // At the end of what is in memory, or beyond it: one reads, those who wait for the lock find it read.
        let read = self.read(after).await?;
        if let Followed::Events { events, next, .. } = &read {
            if newest.to != after {
                *newest = Newest { events: VecDeque::new(), from: after, to: after };
            }
            newest.add(events, *next);
        }
        Ok(read)
    }

    async fn read(&self, after: EventPosition) -> Result<Followed, StoreError> {
        let page = self.store.events_after(after, PAGE).await?;
        Ok(match page.log.missed(after) {
            None => Followed::Events { events: page.events.into_iter().map(Arc::new).collect(), next: page.next, more: page.more },
            Some(why @ Missed::Pruned) => Followed::Missed { why, resume: page.log.pruned_to },
            Some(why @ Missed::Unknown) => Followed::Missed { why, resume: page.log.newest },
        })
    }

    /// A place for one more who follows with this key.
    pub fn enter(&self, key: KeyId) -> Result<Place, NoPlace> {
        let mut taken = self.places.taken();
        if taken.values().sum::<usize>() >= self.places.most {
            return Err(NoPlace::Full(self.places.most));
        }
        let of_key = taken.entry(key).or_default();
        if *of_key >= self.places.per_key {
            return Err(NoPlace::OfKey(self.places.per_key));
        }
        *of_key += 1;
        Ok(Place { key, places: Arc::clone(&self.places) })
    }

    /// How many follow.
    pub fn open(&self) -> usize {
        self.places.taken().values().sum()
    }
}

/// Why there is no place: how many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPlace {
    /// For all.
    Full(usize),
    /// For one key.
    OfKey(usize),
}

struct Places {
    most: usize,
    per_key: usize,
    /// Keys without streams are not in it.
    taken: Mutex<HashMap<KeyId, usize>>,
}

impl Places {
    fn taken(&self) -> MutexGuard<'_, HashMap<KeyId, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one stream, given back when it ends.
pub struct Place {
    key: KeyId,
    places: Arc<Places>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        if let Some(count) = taken.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::model::{Credential, CredentialId, CredentialState, ProjectId, Purpose, Timestamp};
    use crate::store::sqlite::{SqliteStore, StoreOptions};

    fn credential(now: Timestamp) -> Credential {
        Credential {
            id: CredentialId::new(now),
            project: ProjectId::new(now),
            purpose: Purpose::Standing,
            entity: None,
            channel: "webhook".into(),
            name: "x".into(),
            enabled: true,
            config: serde_json::Map::new(),
            secrets: Default::default(),
            mapping: serde_json::Map::new(),
            filter: None,
            retry: None,
            state: CredentialState::Active,
            state_reason: None,
            state_since: now,
            version: 1,
            created_at: now,
            updated_at: now,
        }
    }

    async fn live(limits: EventLimits) -> (tempfile::TempDir, Live) {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&dir.path().join("leadwire.db"), StoreOptions::default()).await.unwrap();
        (dir, Live::new(Arc::new(store), &limits))
    }

    const LIMITS: EventLimits = EventLimits { streams: 3, per_key: 2 };

    /// Everything from `after` to the end, however it is read.
    async fn all(live: &Live, mut after: EventPosition) -> Vec<EventPosition> {
        let mut seen = Vec::new();
        loop {
            let Followed::Events { events, next, more } = live.after(after).await.unwrap() else { panic!("missed") };
            seen.extend(events.iter().map(|event| event.position));
            after = next;
            if !more {
                return seen;
            }
        }
    }

    #[tokio::test]
    async fn memory_and_the_log_tell_the_same() {
        let (_dir, live) = live(LIMITS).await;
        let now = Timestamp::from_millis(1_000);
        let credential = credential(now);
        live.store.create_credential(&credential, None).await.unwrap();
        // Half of it is read as it comes, the other half at once; more than memory holds.
        for n in 0..KEPT + 700 {
            let state = if n % 2 == 0 { CredentialState::Paused } else { CredentialState::Active };
            live.store.set_credential_state(credential.id, state, None, now).await.unwrap();
            if n == KEPT / 2 {
                assert_eq!(all(&live, EventPosition::START).await.len(), n + 2);
            }
        }
        let seen = all(&live, EventPosition::START).await;
        assert_eq!(seen.len(), KEPT + 701);
        assert!(seen.is_sorted_by(|a, b| a < b));
        for from in [0, 1, PAGE as usize, KEPT / 2, KEPT, KEPT + 699, KEPT + 700] {
            assert_eq!(all(&live, seen[from]).await, seen[from + 1..], "{from}");
        }
        assert!(live.newest.lock().await.events.len() <= KEPT);
        let beyond = EventPosition { turn: 1_000_000, index: 1 };
        let resume = live.end().await.unwrap();
        assert_eq!(live.after(beyond).await.unwrap(), Followed::Missed { why: Missed::Unknown, resume });
        // Who came with a strange position changed nothing for the others.
        assert_eq!(all(&live, seen[KEPT]).await, seen[KEPT + 1..]);
    }

    #[tokio::test]
    async fn places_are_bounded_and_given_back() {
        let (_dir, live) = live(LIMITS).await;
        let (one, other) = (KeyId::new(Timestamp::from_millis(1)), KeyId::new(Timestamp::from_millis(1)));
        let first = live.enter(one).ok();
        let second = live.enter(one).ok();
        assert!(first.is_some() && second.is_some());
        assert_eq!(live.enter(one).err(), Some(NoPlace::OfKey(2)));
        let third = live.enter(other).ok();
        assert_eq!((live.enter(other).err(), live.open()), (Some(NoPlace::Full(3)), 3));
        drop((first, second, third));
        assert_eq!((live.open(), live.places.taken().len()), (0, 0));
    }
}
