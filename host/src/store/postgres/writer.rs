//! Group commit: whatever waits is done in one transaction. Groups form by themselves while those before them run, two at a
//! time; there is no timer. Intakes and answers of calls go this way, each kind in groups of its own.
//!
//! One requester's failing statement never harms another: the group is rolled back and each request is done alone.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::Inner;
use super::accept::{self, Accepting, Claims};
use super::error::Fail;
use super::finish;
use super::pool::Tries;
use crate::store::{Changed, Finish, StoreError};

/// Requests that may wait; beyond that, callers wait to be let in.
const WAITING: usize = 1_024;
/// Groups at work at once.
const AT_ONCE: usize = 2;
/// The most of each kind in one group.
const MAX_INTAKES: usize = 64;
const MAX_FINISHED: usize = 512;

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// A kind of request that is done in groups.
#[async_trait]
pub(super) trait Kind: Sized + Send + Sync + 'static {
    type Answer: Send + 'static;
    /// What a group has room for and what its members must not share.
    type Group: Default + Send;

    /// Whether this one may join the group; then it has.
    fn join(&self, group: &mut Self::Group) -> bool;

    /// Does them all in one transaction, once.
    async fn run(store: &Arc<Inner>, asked: &[Self]) -> Result<Vec<Result<Self::Answer, StoreError>>, Fail>;
}

/// The way to the groups of one kind.
pub(super) struct Groups<K: Kind> {
    asks: mpsc::Sender<(K, Reply<K::Answer>)>,
    stop: CancellationToken,
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

impl<K: Kind> Groups<K> {
    /// Starts them. They end when this is gone, or stopped, and what was asked is done.
    pub(super) fn start(store: Arc<Inner>) -> Self {
        let (asks, inbox) = mpsc::channel(WAITING);
        let stop = CancellationToken::new();
        let (ended, told) = oneshot::channel();
        tokio::spawn(form(store, inbox, stop.clone(), ended));
        Self { asks, stop, ended: Mutex::new(Some(told)) }
    }

    pub(super) async fn ask(&self, asked: K) -> Result<K::Answer, StoreError> {
        let stopped = || StoreError::Unavailable("the store is closed".to_owned());
        let (reply, answer) = oneshot::channel();
        self.asks.send((asked, reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// Lets nothing more in, and comes back when what was let in is done.
    pub(super) async fn stop(&self) {
        self.stop.cancel();
        if let Some(ended) = self.ended.lock().await.take() {
            // A panic was reported when it happened.
            let _ = ended.await;
        }
    }
}

async fn form<K: Kind>(
    store: Arc<Inner>,
    mut inbox: mpsc::Receiver<(K, Reply<K::Answer>)>,
    stop: CancellationToken,
    ended: oneshot::Sender<()>,
) {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    // What could not join the group before.
    let mut held: VecDeque<(K, Reply<K::Answer>)> = VecDeque::new();
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { break };
        let mut group = Vec::new();
        let mut joined = K::Group::default();
        let mut left = VecDeque::new();
        let mut offer = |ask: (K, Reply<K::Answer>), left: &mut VecDeque<_>| {
            if ask.0.join(&mut joined) { group.push(ask) } else { left.push_back(ask) }
        };
        if held.is_empty() {
            match next(&mut inbox, &stop).await {
                Some(first) => offer(first, &mut left),
                None => break,
            }
        }
        held.drain(..).for_each(|ask| offer(ask, &mut left));
        // As soon as one does not fit, those behind it wait as well: nobody is overtaken for long.
        while left.is_empty() {
            let Ok(more) = inbox.try_recv() else { break };
            offer(more, &mut left);
        }
        held = left;
        let store = store.clone();
        tokio::spawn(async move {
            take(&store, group).await;
            drop(permit);
        });
    }
    // The groups at work are the last.
    let _ = room.acquire_many(AT_ONCE as u32).await;
    // Nobody may be waiting for the end.
    let _ = ended.send(());
}

async fn next<T>(inbox: &mut mpsc::Receiver<T>, stop: &CancellationToken) -> Option<T> {
    if !inbox.is_closed() {
        tokio::select! {
            biased;
            () = stop.cancelled() => inbox.close(),
            next = inbox.recv() => return next,
        }
    }
    inbox.recv().await
}

/// Does a group and answers everyone. Who no longer waits is not missed.
async fn take<K: Kind>(store: &Arc<Inner>, group: Vec<(K, Reply<K::Answer>)>) {
    let (asked, replies): (Vec<K>, Vec<_>) = group.into_iter().unzip();
    match try_hard(store, &asked).await {
        Ok(answers) => replies.into_iter().zip(answers).for_each(|(reply, answer)| drop(reply.send(answer))),
        // The surroundings failed: each one alone would fail the same way, only slower.
        Err(error) if matches!(error, StoreError::Unavailable(_)) || asked.len() == 1 => {
            replies.into_iter().for_each(|reply| drop(reply.send(Err(error.clone()))));
        }
        Err(_) => {
            for (asked, reply) in asked.into_iter().zip(replies) {
                let alone = try_hard(store, std::slice::from_ref(&asked)).await;
                let answer = alone.and_then(|mut answers| {
                    answers.pop().unwrap_or_else(|| Err(StoreError::Defect("a group was committed without one of its parts".to_owned())))
                });
                let _ = reply.send(answer);
            }
        }
    }
}

async fn try_hard<K: Kind>(store: &Arc<Inner>, asked: &[K]) -> Result<Vec<Result<K::Answer, StoreError>>, StoreError> {
    let (mut tries, began) = (Tries::default(), Instant::now());
    loop {
        let done = K::run(store, asked).await;
        if tries.again(&done) {
            continue;
        }
        let done = match done {
            // Several that get into each other's way may not alone.
            Err(Fail::Again(why)) if asked.len() > 1 => Err(StoreError::Defect(why)),
            done => done.map_err(StoreError::from),
        };
        store.note(began, asked.len(), done.as_ref().err());
        return done;
    }
}

/// A group of intakes.
#[derive(Default)]
pub(super) struct Intakes {
    claims: Claims,
    count: usize,
}

#[async_trait]
impl Kind for Box<Accepting> {
    type Answer = accept::Answer;
    type Group = Intakes;

    fn join(&self, group: &mut Intakes) -> bool {
        let joins = group.count < MAX_INTAKES && group.claims.admit(self);
        group.count += usize::from(joins);
        joins
    }

    async fn run(store: &Arc<Inner>, asked: &[Self]) -> Result<Vec<Result<accept::Answer, StoreError>>, Fail> {
        let group: Vec<&Accepting> = asked.iter().map(AsRef::as_ref).collect();
        let mut tx = store.hot.get().await?;
        tx.begin().await?;
        match accept::run(&mut tx, &store.backlog, &group).await {
            Ok((answers, rooms)) => {
                store.backlog.add(tx.commit().await?);
                drop(rooms);
                for (one, answer) in group.iter().zip(&answers) {
                    if matches!(answer, Ok(crate::store::Written::New(crate::store::Accepted::New))) {
                        store.leads.put(one.lead.clone(), one.payload.len());
                    }
                }
                Ok(answers)
            }
            Err(fail) => {
                tx.roll_back().await;
                Err(fail)
            }
        }
    }
}

#[async_trait]
impl Kind for Vec<Finish> {
    type Answer = Vec<Option<Changed>>;
    /// How many.
    type Group = usize;

    fn join(&self, group: &mut usize) -> bool {
        // A long one goes alone.
        let joins = *group == 0 || *group + self.len() <= MAX_FINISHED;
        *group += if joins { self.len() } else { 0 };
        joins
    }

    async fn run(store: &Arc<Inner>, asked: &[Self]) -> Result<Vec<Result<Self::Answer, StoreError>>, Fail> {
        let all: Vec<&Finish> = asked.iter().flatten().collect();
        let mut tx = store.hot.get().await?;
        tx.begin().await?;
        match finish::run(&mut tx, &all).await {
            Ok(changed) => {
                store.backlog.add(tx.commit().await?);
                let mut changed = changed.into_iter();
                Ok(asked.iter().map(|finished| Ok(changed.by_ref().take(finished.len()).collect())).collect())
            }
            Err(fail) => {
                tx.roll_back().await;
                Err(fail)
            }
        }
    }
}
