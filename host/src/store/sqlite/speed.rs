//! How fast leads arrive, from a bounded number of rows.

use sqlx::{Row, SqlitePool};

use super::walk::id_at;
use crate::model::{CredentialId, DeliveryId, ProjectId, Timestamp};
use crate::store::{Arrival, Speed, StoreError};

pub(super) async fn speed(
    pool: &SqlitePool,
    project: ProjectId,
    after: Timestamp,
    before: Timestamp,
    limit: u32,
) -> Result<Speed, StoreError> {
    let (from, to) = (id_at(after.as_millis()), id_at(before.as_millis()));
    let rows = sqlx::query(ARRIVALS).bind(project.uuid()).bind(from).bind(to).bind(limit).fetch_all(pool).await?;
    let mut speed = Speed { has_more: rows.len() >= limit as usize, ..Speed::default() };
    for row in &rows {
        let ms: Option<i64> = row.try_get(1)?;
        if let Some(ms) = ms {
            let credential = CredentialId::from_uuid(row.try_get(0)?);
            speed.delivered.push(Arrival { credential, ms: u64::try_from(ms).unwrap_or(0), late: row.try_get(2)? });
        }
    }
    let oldest = sqlx::query(OLDEST).bind(project.uuid()).bind(limit).fetch_optional(pool).await?;
    speed.oldest = oldest.map(|row| row.try_get(0).map(DeliveryId::from_uuid)).transpose()?;
    Ok(speed)
}

/// Ids carry the time. The limit counts rows that are looked at, not those that fit.
const ARRIVALS: &str = "
select credential_id, iif(kind = 'lead' and status = 'delivered', finished_at - created_at, null), overdue_at is not null
  from deliveries where project_id = $1 and id >= $2 and id < $3 order by id desc limit $4";

/// Jobs come in the order of their ids, which is that of their making.
const OLDEST: &str = "
select d.id from (select id, kind from jobs where id > x'' order by id limit $2) oldest
 cross join deliveries d on d.id = oldest.id where d.project_id = $1 and oldest.kind = 'lead' limit 1";

/// The statements, for the check of their plans.
#[cfg(test)]
pub(super) const READS: &[&str] = &[ARRIVALS, OLDEST];
