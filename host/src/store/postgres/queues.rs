//! How much waits, by channel. Counting steps through the index of the queue, which holds no more than the backlog's limit.

use std::collections::{BTreeMap, HashMap};

use sqlx::Row;
use uuid::Uuid;

use super::error::Fail;
use super::pool::Conn;
use super::read::time;
use super::walk::time_of;
use crate::model::CredentialId;
use crate::store::{ChannelQueue, Queues};

pub(super) async fn queues(conn: &mut Conn) -> Result<Queues, Fail> {
    let mut lanes = Vec::new();
    for row in conn.all(sqlx::query(LANES)).await? {
        let (lane, waiting, due_at): (Uuid, i64, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        lanes.push((CredentialId::from_uuid(lane).of_lane(), u64::try_from(waiting).unwrap_or_default(), time(due_at)));
    }
    let ids: Vec<Uuid> = lanes.iter().map(|(credential, ..)| credential.uuid()).collect();
    let mut names: HashMap<CredentialId, String> = HashMap::new();
    for row in conn.all(sqlx::query(CHANNELS).bind(ids)).await? {
        names.insert(CredentialId::from_uuid(row.try_get(0)?), row.try_get(1)?);
    }
    let mut channels: BTreeMap<String, ChannelQueue> = BTreeMap::new();
    for (credential, waiting, due_at) in lanes {
        let channel = names.get(&credential).cloned().unwrap_or_default();
        let queue = channels.entry(channel.clone()).or_insert(ChannelQueue { channel, waiting: 0, due_at });
        queue.waiting += waiting;
        queue.due_at = queue.due_at.min(due_at);
    }
    let oldest = conn.first(sqlx::query(OLDEST_LEAD)).await?;
    let oldest: Option<Uuid> = oldest.map(|row| row.try_get(0)).transpose()?;
    Ok(Queues { channels: channels.into_values().collect(), oldest_lead: oldest.map(time_of) })
}

const LANES: &str = "select lane_id, count(*), min(due_at) from jobs group by lane_id";

const CHANNELS: &str = "select id, channel from credentials where id = any($1)";

/// Among the oldest of all kinds: the others are made in the course of leads.
const OLDEST_LEAD: &str = "
select id from (select id, kind from jobs order by id limit 1000) j where kind = 'lead' order by id limit 1";
