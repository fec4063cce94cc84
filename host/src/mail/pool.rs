//! Connections kept for the next mail, by account. An account with another password is another account.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::session::Session;

/// Kept connections of all accounts together.
const MAX_TOTAL: usize = 256;

type Key = [u8; 32];

struct Kept {
    session: Session,
    since: Instant,
}

pub(crate) struct Pool {
    kept: Mutex<HashMap<Key, Vec<Kept>>>,
    max_idle: usize,
    idle: Duration,
    max_mails: u32,
}

impl Pool {
    pub(crate) fn new(max_idle: usize, idle: Duration, max_mails: u32) -> Self {
        Self { kept: Mutex::default(), max_idle, idle, max_mails }
    }

    /// The connection used last, so that the others can grow old.
    pub(crate) fn take(&self, key: &Key) -> Option<Session> {
        self.drop_old(Instant::now());
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get_mut(key)?.pop().map(|kept| kept.session)
    }

    /// Keeps a connection; gives it back when there is no place for it or it has done its share.
    pub(crate) fn put(&self, key: Key, session: Session) -> Option<Session> {
        if session.mails >= self.max_mails {
            return Some(session);
        }
        let now = Instant::now();
        self.drop_old(now);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = kept.values().map(Vec::len).sum();
        let own = kept.entry(key).or_default();
        if own.len() >= self.max_idle || total >= MAX_TOTAL {
            return Some(session);
        }
        own.push(Kept { session, since: now });
        None
    }

    /// Closes what has been idle for too long.
    pub(crate) fn drop_old(&self, now: Instant) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, sessions| {
            sessions.retain(|kept| now.saturating_duration_since(kept.since) < self.idle);
            !sessions.is_empty()
        });
    }

    /// Takes everything out, for an orderly goodbye.
    pub(crate) fn drain(&self) -> Vec<Session> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.drain().flat_map(|(_, sessions)| sessions).map(|kept| kept.session).collect()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).values().map(Vec::len).sum()
    }
}
