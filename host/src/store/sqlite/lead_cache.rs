//! Leads that were accepted or read a moment ago. A lead never changes, so a copy in memory cannot be stale; it saves a
//! read and a parse for each of its deliveries.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use crate::model::{Lead, LeadId};

/// Bytes of JSON that the leads kept here may stand for; in memory they take several times as much. Leads are sent within
/// moments, and those that wait longer are read when their time comes.
const MAX_BYTES: usize = 2 << 20;

/// A bounded memory of leads; the oldest entries leave first.
#[derive(Default)]
pub(in crate::store) struct LeadCache {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    leads: HashMap<LeadId, Arc<Lead>>,
    order: VecDeque<(LeadId, usize)>,
    bytes: usize,
}

impl LeadCache {
    pub(in crate::store) fn get(&self, id: LeadId) -> Option<Arc<Lead>> {
        self.lock().leads.get(&id).cloned()
    }

    /// Keeps `lead`, whose JSON has `bytes`.
    pub(in crate::store) fn put(&self, lead: Arc<Lead>, bytes: usize) {
        let mut inner = self.lock();
        let id = lead.id;
        if inner.leads.insert(id, lead).is_some() {
            return;
        }
        inner.order.push_back((id, bytes));
        inner.bytes += bytes;
        while inner.bytes > MAX_BYTES {
            let Some((oldest, bytes)) = inner.order.pop_front() else { break };
            inner.bytes -= bytes;
            inner.leads.remove(&oldest);
        }
    }

    /// Forgets a lead; its place in the order goes with the oldest ones.
    pub(in crate::store) fn remove(&self, id: LeadId) {
        self.lock().leads.remove(&id);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
