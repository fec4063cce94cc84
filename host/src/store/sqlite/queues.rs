//! How much waits, by channel. Counting steps through the index of the queue, which holds no more than the backlog's limit.

use std::collections::BTreeMap;

use sqlx::{Row, SqlitePool};
use uuid::Uuid;

use super::read::time;
use crate::model::Timestamp;
use crate::store::{ChannelQueue, Queues, StoreError};

pub(super) async fn queues(pool: &SqlitePool) -> Result<Queues, StoreError> {
    let mut channels: BTreeMap<String, ChannelQueue> = BTreeMap::new();
    for row in sqlx::query(LANES).fetch_all(pool).await? {
        let (channel, waiting, due_at): (Option<String>, i64, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let (channel, waiting, due_at) = (channel.unwrap_or_default(), u64::try_from(waiting).unwrap_or_default(), time(due_at));
        let queue = channels.entry(channel.clone()).or_insert(ChannelQueue { channel, waiting: 0, due_at });
        queue.waiting += waiting;
        queue.due_at = queue.due_at.min(due_at);
    }
    let oldest: Option<Uuid> = sqlx::query(OLDEST_LEAD).fetch_one(pool).await?.try_get(0)?;
    Ok(Queues { channels: channels.into_values().collect(), oldest_lead: oldest.and_then(made_at) })
}

/// Ids begin with the time they were made.
fn made_at(id: Uuid) -> Option<Timestamp> {
    let (seconds, nanos) = id.get_timestamp()?.to_unix();
    Some(Timestamp::from_millis(i64::try_from(seconds).ok()? * 1_000 + i64::from(nanos / 1_000_000)))
}

/// Steps from lane to lane in the index, as [`super::lease::LANES`] does. A bulk lane is its credential's, whose id has a 7 (the
/// version of a UUID) where the lane's has an F.
pub(super) const LANES: &str = "
with recursive steps (lane) as (
    select min(lane_id) from jobs
    union all
    select (select min(j.lane_id) from jobs j where j.lane_id > steps.lane) from steps where steps.lane is not null)
select (select channel from credentials where id = unhex(substr(hex(lane), 1, 12) || '7' || substr(hex(lane), 14))), (select count(*) from jobs where lane_id = lane),
       (select min(due_at) from jobs where lane_id = lane)
  from steps where lane is not null";

/// Among the oldest of all kinds: the others are made in the course of leads.
pub(super) const OLDEST_LEAD: &str = "
select min(id) from (select id, kind from jobs where id > x'' order by id limit 1000) where kind = 'lead'";
