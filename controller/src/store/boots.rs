//! Boot sessions: what agents saw of the boots at their sites. They explain the past and decide nothing, so the latest of each
//! machine are kept and the others go.

use std::collections::{BTreeMap, BTreeSet};

use pureboot_protocol::session::render::BootView;
use pureboot_protocol::session::step::Session;
use pureboot_protocol::{Mac, NodeId, Page, SiteId, Timestamp};
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::{AssertSqlSafe, Row};

use crate::store::many::{pieces, values};
use crate::store::page::{Cursor, Paging};
use crate::store::row::{
    DbConnection, DbRow, count, json, time, time_opt, to_json, word, word_opt,
};
use crate::store::{Store, StoreError, sites};

/// Sessions that are kept of one machine at one site.
pub(crate) const PER_MACHINE_MAX: i64 = 50;
/// Sessions that are kept of one site, whatever machines they are of.
pub(crate) const PER_SITE_MAX: i64 = 2_000;

/// A boot session with who told it. The field names are those of the HTTP surface.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct KeptBoot {
    /// The site whose agent saw it.
    site_id: SiteId,
    /// The node of the machine, if it is one.
    node_id: Option<NodeId>,
    /// When the agent last told of it.
    received_at: Timestamp,
    /// How it stood when the site was last heard, or now if that is just now.
    #[serde(flatten)]
    boot: BootView,
    #[serde(skip)]
    number: u64,
}

const KEPT: &str = "SELECT b.number, b.site_id, b.received_at, b.session, n.id AS node_id, n.hostname, s.agent_last_seen
    FROM boot_sessions b JOIN sites s ON s.id = b.site_id LEFT JOIN nodes n ON n.mac_address = b.mac";

impl Store {
    /// Keeps what the agent of `site` tells of boots. A session that is known is told anew.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn take_boots(
        &self,
        site: SiteId,
        sessions: Vec<Session>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        // The last word about a session counts; a statement must not name a row twice.
        let sessions: BTreeMap<[u8; 16], Session> =
            sessions.into_iter().map(|session| (*session.id.as_bytes(), session)).collect();
        let mut sessions: Vec<_> = sessions.into_values().collect();
        sessions.sort_by_key(|session| session.started_at);
        let mut tx = self.write().await?;
        for sessions in pieces(&sessions) {
            let sql = format!(
                "INSERT INTO boot_sessions (site_id, id, mac, received_at, session) {}
                 ON CONFLICT (site_id, id) DO UPDATE SET mac = excluded.mac, received_at = excluded.received_at,
                    session = excluded.session",
                values(sessions.len(), 5)
            );
            let mut query = sqlx::query(AssertSqlSafe(sql));
            for session in sessions {
                query = query
                    .bind(site.to_string())
                    .bind(session.id.to_string())
                    .bind(session.mac.map(|mac| mac.to_string()))
                    .bind(now.unix_ms())
                    .bind(to_json(session));
            }
            query.execute(&mut *tx).await?;
        }
        let machines: BTreeSet<Mac> = sessions.iter().filter_map(|session| session.mac).collect();
        make_room(&mut tx, site, &machines).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The boot sessions of a node, at whatever site, the latest first.
    ///
    /// # Errors
    /// There is no such node.
    pub(crate) async fn node_boots(
        &self,
        id: NodeId,
        now: Timestamp,
        paging: &Paging,
    ) -> Result<Page<KeptBoot>, StoreError> {
        let mac = self.node(id).await?.mac_address.to_string();
        self.boots(None, Some(mac), now, paging).await
    }

    /// The boot sessions that the agent of a site has told, of all machines or of one, the latest first.
    ///
    /// # Errors
    /// There is no such site.
    pub(crate) async fn site_boots(
        &self,
        site: SiteId,
        mac: Option<Mac>,
        now: Timestamp,
        paging: &Paging,
    ) -> Result<Page<KeptBoot>, StoreError> {
        sites::load(&mut *self.reader.acquire().await?, site).await?;
        self.boots(Some(site.to_string()), mac.map(|mac| mac.to_string()), now, paging).await
    }

    async fn boots(
        &self,
        site: Option<String>,
        mac: Option<String>,
        now: Timestamp,
        paging: &Paging,
    ) -> Result<Page<KeptBoot>, StoreError> {
        const WANTED: &str = "WHERE (CAST($1 AS TEXT) IS NULL OR b.site_id = $1) AND (CAST($2 AS TEXT) IS NULL OR b.mac = $2)";
        let (below, rows) = paging.falling();
        let sql = format!("{KEPT} {WANTED} AND b.number < $3 ORDER BY b.number DESC LIMIT $4");
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(&site)
            .bind(&mac)
            .bind(below)
            .bind(rows)
            .fetch_all(&self.reader)
            .await?;
        let total = format!("SELECT count(*) AS total FROM boot_sessions b {WANTED}");
        let total = sqlx::query(AssertSqlSafe(total)).bind(&site).bind(&mac);
        let total = total.fetch_one(&self.reader).await?;
        let boots = rows.iter().map(|row| read(row, now)).collect::<Result<_, _>>()?;
        Ok(paging
            .page(boots, count(&total, "total")?, |boot: &KeptBoot| Cursor::numbered(boot.number)))
    }

    /// Forgets the sessions that nobody has told of since `end`; answers how many.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn forget_boots(&self, end: Timestamp) -> Result<u64, StoreError> {
        let mut tx = self.write().await?;
        let delete = sqlx::query("DELETE FROM boot_sessions WHERE received_at < $1");
        let rows = delete.bind(end.unix_ms()).execute(&mut *tx).await?.rows_affected();
        tx.commit().await?;
        Ok(rows)
    }
}

/// Forgets the oldest of what is too much now that `site` has told of `machines`.
async fn make_room(
    db: &mut DbConnection,
    site: SiteId,
    machines: &BTreeSet<Mac>,
) -> Result<(), StoreError> {
    let full = sqlx::query(
        "SELECT mac FROM boot_sessions WHERE site_id = $1 AND mac IS NOT NULL GROUP BY mac HAVING count(*) > $2",
    );
    let full = full.bind(site.to_string()).bind(PER_MACHINE_MAX).fetch_all(&mut *db).await?;
    for row in &full {
        let mac: Mac = word(row, "mac")?;
        if machines.contains(&mac) {
            sqlx::query(
                "DELETE FROM boot_sessions WHERE site_id = $1 AND mac = $2 AND number <=
                    (SELECT number FROM boot_sessions WHERE site_id = $1 AND mac = $2 ORDER BY number DESC LIMIT 1 OFFSET $3)",
            )
            .bind(site.to_string())
            .bind(mac.to_string())
            .bind(PER_MACHINE_MAX)
            .execute(&mut *db)
            .await?;
        }
    }
    sqlx::query(
        "DELETE FROM boot_sessions WHERE site_id = $1 AND number <=
            (SELECT number FROM boot_sessions WHERE site_id = $1 ORDER BY number DESC LIMIT 1 OFFSET $2)",
    )
    .bind(site.to_string())
    .bind(PER_SITE_MAX)
    .execute(db)
    .await?;
    Ok(())
}

fn read(row: &DbRow, now: Timestamp) -> Result<KeptBoot, StoreError> {
    let session: Session = json(row, "session")?;
    // What a site that is silent now has seen since is not known here: a boot that was under way then may have ended well.
    let heard_at = time_opt(row, "agent_last_seen")?.map_or(now, |seen| seen.min(now));
    Ok(KeptBoot {
        site_id: word(row, "site_id")?,
        node_id: word_opt(row, "node_id")?,
        received_at: time(row, "received_at")?,
        boot: BootView::new(session, row.try_get("hostname")?, heard_at),
        number: count(row, "number")?,
    })
}
