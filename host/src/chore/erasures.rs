//! Goes on with erasures of persons that their request did not end: large ones, and those that a crash broke off.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::model::{Erasure, Person};
use crate::secrets::{Sealed, Vault};
use crate::store::{EraseStep, StoreError};

/// Leads that one transaction removes.
const LEADS: u32 = 20;
/// Erasures that are gone on with side by side.
const SIDE_BY_SIDE: u32 = 20;
/// Pause after a step that could not be made.
const PAUSE: Duration = Duration::from_secs(1);

/// What a person was named by, sealed for the erasure's row.
pub fn seal(vault: &Vault, erasure: &str, person: &Person) -> Option<Vec<u8>> {
    let text = serde_json::to_vec(person).ok()?;
    let Sealed { key_id, bytes } = vault.seal(erasure.as_bytes(), &text).ok()?;
    Some([key_id.as_bytes(), b"\n", &bytes].concat())
}

fn open(vault: &Vault, erasure: &Erasure) -> Option<Person> {
    let asked = erasure.asked.as_ref()?;
    let at = asked.iter().position(|byte| *byte == b'\n')?;
    let (key_id, sealed) = (std::str::from_utf8(asked.get(..at)?).ok()?, asked.get(at + 1..)?);
    let text = vault.open(key_id, erasure.id.to_string().as_bytes(), sealed).ok()?;
    serde_json::from_slice(&text).ok()
}

/// How far an erasure came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// Nothing is left.
    Done,
    /// There is more to do.
    More,
    /// There is more to do, but not at this moment.
    Later,
}

/// Takes the next step of an erasure.
pub async fn step(app: &App, erasure: &Erasure) -> Result<Came, StoreError> {
    let Some(person) = open(&app.vault, erasure) else {
        // Done meanwhile, or sealed with a master key that is gone: then who is meant is not known any more.
        let still = app.store.erasure(erasure.id).await?.is_some_and(|now| now.finished_at.is_none());
        if still {
            tracing::error!(erasure.id = %erasure.id, "who is to be erased cannot be read: its master key is missing");
        }
        return Ok(if still { Came::Later } else { Came::Done });
    };
    let now = app.now();
    let Some(erased) = app.store.erase(&EraseStep { erasure: erasure.id, person, limit: LEADS, now }).await? else {
        return Ok(Came::Done);
    };
    erased.batches.iter().for_each(|changed| app.batch_changed(changed));
    if erased.done {
        tracing::info!(erasure.id = %erasure.id, correlation = erasure.correlation, "erasure {} completed", erasure.id);
    }
    Ok(match erased {
        erased if erased.done => Came::Done,
        erased if erased.later => Came::Later,
        _ => Came::More,
    })
}

/// Runs until `stop`.
pub async fn run(app: App, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let woken = app.erasures.notified();
        let wait = match turn(&app).await {
            Ok(Came::Done) => None,
            Ok(Came::More) => Some(Duration::ZERO),
            Ok(Came::Later) => Some(PAUSE),
            Err(error) => {
                tracing::warn!(%error, "a step of an erasure failed; tried again in a second");
                Some(PAUSE)
            }
        };
        let again = async {
            match wait {
                Some(Duration::ZERO) => tokio::task::yield_now().await,
                // Not the clock of decisions: nothing depends on how long this is.
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = woken => {}
            () = again => {}
        }
    }
}

/// One step of each; what is to be done about those that are left.
async fn turn(app: &App) -> Result<Came, StoreError> {
    let mut came = Came::Done;
    for erasure in app.store.running_erasures(SIDE_BY_SIDE).await? {
        came = match (came, step(app, &erasure).await?) {
            (Came::More, _) | (_, Came::More) => Came::More,
            (Came::Later, _) | (_, Came::Later) => Came::Later,
            (Came::Done, Came::Done) => Came::Done,
        };
    }
    Ok(came)
}
