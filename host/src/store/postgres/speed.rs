//! How fast leads arrive, from a bounded number of rows.

use sqlx::Row;

use super::error::Fail;
use super::pool::Conn;
use super::walk::id_at;
use crate::model::{CredentialId, DeliveryId, ProjectId, Timestamp};
use crate::store::{Arrival, Speed};

pub(super) async fn speed(conn: &mut Conn, project: ProjectId, after: Timestamp, before: Timestamp, limit: u32) -> Result<Speed, Fail> {
    let (from, to) = (id_at(after.as_millis()), id_at(before.as_millis()));
    let rows = conn.all(sqlx::query(ARRIVALS).bind(project.uuid()).bind(from).bind(to).bind(i64::from(limit))).await?;
    let mut speed = Speed { has_more: rows.len() >= limit as usize, ..Speed::default() };
    for row in &rows {
        let ms: Option<i64> = row.try_get(1)?;
        if let Some(ms) = ms {
            let credential = CredentialId::from_uuid(row.try_get(0)?);
            speed.delivered.push(Arrival { credential, ms: u64::try_from(ms).unwrap_or(0), late: row.try_get(2)? });
        }
    }
    let oldest = conn.first(sqlx::query(OLDEST).bind(project.uuid()).bind(i64::from(limit))).await?;
    speed.oldest = oldest.map(|row| row.try_get(0).map(DeliveryId::from_uuid)).transpose()?;
    Ok(speed)
}

/// Ids carry the time. The limit counts rows that are looked at, not those that fit.
const ARRIVALS: &str = "
select credential_id, case when kind = 'lead' and status = 'delivered' then finished_at - created_at end, overdue_at is not null
  from deliveries where project_id = $1 and id >= $2 and id < $3 order by id desc limit $4";

/// Jobs come in the order of their ids, which is that of their making.
const OLDEST: &str = "
select d.id
  from (select id, kind from jobs order by id limit $2) oldest
 cross join lateral (select id, project_id from deliveries where id = oldest.id offset 0) d
 where d.project_id = $1 and oldest.kind = 'lead'
 order by oldest.id limit 1";
