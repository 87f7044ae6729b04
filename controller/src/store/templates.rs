//! Templates of answer files, with their versions and with what they include.

use std::collections::BTreeSet;

use pureboot_protocol::{Page, TemplateId, TemplateKind, Timestamp};
use pureboot_templates::answer::{self, INCLUDES_MAX, Library};
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::Row;

use crate::store::page::{Cursor, Paging};
use crate::store::records::{self, Reach};
use crate::store::row::{DbConnection, DbRow, count, int, time, word};
use crate::store::{Store, StoreError, check_version};

/// The newest versions of a template that are kept.
const VERSIONS_MAX: u64 = 100;

/// A template without its text. The field names are those of the HTTP surface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct TemplateHead {
    pub(crate) id: TemplateId,
    /// What others include it by; unique.
    pub(crate) name: String,
    pub(crate) kind: TemplateKind,
    pub(crate) description: String,
    pub(crate) size_bytes: u64,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
    /// Rises by one with every change.
    pub(crate) version: u64,
}

/// A template in one of its versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Template {
    #[serde(flatten)]
    pub(crate) head: TemplateHead,
    pub(crate) body: String,
}

/// A template in the version in use, without its text.
const HEADS: &str = "SELECT t.id, t.created_at, v.name, v.kind, v.description, v.size_bytes, v.updated_at, v.version
    FROM templates t JOIN template_versions v ON v.template_id = t.id";

/// [`HEADS`] with the text.
const WHOLE: &str = "SELECT t.id, t.created_at, v.name, v.kind, v.description, v.size_bytes, v.updated_at, v.version, v.body
    FROM templates t JOIN template_versions v ON v.template_id = t.id";

impl Store {
    /// Keeps a new template.
    ///
    /// # Errors
    /// The name is taken, or it does not compile with what it includes.
    pub(crate) async fn create_template(&self, template: &Template) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        let TemplateHead { id, name, created_at, version, .. } = &template.head;
        check_name(&mut tx, &template.head).await?;
        check_text(&mut tx, template).await?;
        sqlx::query(
            "INSERT INTO templates (id, name, created_at, version) VALUES ($1, $2, $3, $4)",
        )
        .bind(id.to_string())
        .bind(name)
        .bind(created_at.unix_ms())
        .bind(int(*version))
        .execute(&mut *tx)
        .await?;
        keep(&mut tx, template).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The template with `id`, in `version` or in the one in use.
    ///
    /// # Errors
    /// There is none, or the version is not kept.
    pub(crate) async fn template(
        &self,
        id: TemplateId,
        version: Option<u64>,
    ) -> Result<Template, StoreError> {
        load(&mut *self.reader.acquire().await?, id, version).await
    }

    /// Templates in the order of their making, of one kind or of all.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn templates(
        &self,
        kind: Option<TemplateKind>,
        paging: &Paging,
    ) -> Result<Page<TemplateHead>, StoreError> {
        let kind = kind.map(TemplateKind::as_str);
        let (position, id, rows) = paging.rising();
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "{HEADS} AND v.version = t.version WHERE (CAST($1 AS TEXT) IS NULL OR v.kind = $1)
               AND (t.created_at, t.id) > ($2, $3) ORDER BY t.created_at, t.id LIMIT $4"
        )))
        .bind(kind)
        .bind(position)
        .bind(id)
        .bind(rows)
        .fetch_all(&self.reader)
        .await?;
        let total = sqlx::query(
            "SELECT count(*) AS total FROM templates t JOIN template_versions v ON v.template_id = t.id AND v.version = t.version
             WHERE CAST($1 AS TEXT) IS NULL OR v.kind = $1",
        );
        let total = total.bind(kind).fetch_one(&self.reader).await?;
        let heads = rows.iter().map(read_head).collect::<Result<_, _>>()?;
        Ok(paging.page(heads, count(&total, "total")?, |head: &TemplateHead| {
            Cursor::new(head.created_at.unix_ms(), head.id)
        }))
    }

    /// The versions of a template that are kept, the newest first.
    ///
    /// # Errors
    /// There is no such template.
    pub(crate) async fn template_versions(
        &self,
        id: TemplateId,
        paging: &Paging,
    ) -> Result<Page<TemplateHead>, StoreError> {
        let mut tx = self.reader.begin().await?;
        load(&mut tx, id, None).await?;
        let (below, rows) = paging.falling();
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "{HEADS} WHERE t.id = $1 AND v.version < $2 ORDER BY v.version DESC LIMIT $3"
        )))
        .bind(id.to_string())
        .bind(below)
        .bind(rows)
        .fetch_all(&mut *tx)
        .await?;
        let total =
            sqlx::query("SELECT count(*) AS total FROM template_versions WHERE template_id = $1");
        let total = total.bind(id.to_string()).fetch_one(&mut *tx).await?;
        let heads = rows.iter().map(read_head).collect::<Result<_, _>>()?;
        Ok(paging.page(heads, count(&total, "total")?, |head: &TemplateHead| {
            Cursor::numbered(head.version)
        }))
    }

    /// Keeps what `change` makes of a template as its next version.
    ///
    /// # Errors
    /// There is no such template, it has another version than `version`, the name is taken, others include it by the old
    /// one, or it or one that includes it would not compile. The version in use stays then (FAULTS U8).
    pub(crate) async fn update_template(
        &self,
        id: TemplateId,
        version: Option<u64>,
        now: Timestamp,
        change: impl FnOnce(Template) -> Template,
    ) -> Result<Template, StoreError> {
        let mut tx = self.write().await?;
        let old = load(&mut tx, id, None).await?;
        let template = replace(&mut tx, old, version, now, change).await?;
        tx.commit().await?;
        Ok(template)
    }

    /// Makes the text, kind and description of an older version the next one. The name stays as it is.
    ///
    /// # Errors
    /// As [`Store::update_template`], and the older version is not kept.
    pub(crate) async fn restore_template(
        &self,
        id: TemplateId,
        older: u64,
        version: Option<u64>,
        now: Timestamp,
    ) -> Result<Template, StoreError> {
        let mut tx = self.write().await?;
        let old = load(&mut tx, id, None).await?;
        let older = load(&mut tx, id, Some(older)).await?;
        let change = |now: Template| Template {
            head: TemplateHead { name: now.head.name, ..older.head },
            body: older.body,
        };
        let template = replace(&mut tx, old, version, now, change).await?;
        tx.commit().await?;
        Ok(template)
    }

    /// Deletes a template with all its versions, and answers what it was.
    ///
    /// # Errors
    /// There is no such template, it has another version than `version`, or something is made of it.
    pub(crate) async fn delete_template(
        &self,
        id: TemplateId,
        version: Option<u64>,
    ) -> Result<Template, StoreError> {
        let mut tx = self.write().await?;
        let template = load(&mut tx, id, None).await?;
        check_version(version, template.head.version)?;
        // The ids in the JSON of a workflow are UUID text, so that none is a part of another.
        let workflows = sqlx::query(
            "SELECT count(*) AS workflows FROM workflows WHERE templates LIKE '%' || $1 || '%'",
        );
        let workflows = workflows.bind(id.to_string()).fetch_one(&mut *tx).await?;
        let workflows = count(&workflows, "workflows")?;
        let templates = includers(&mut tx, &template.head.name).await?;
        let templates = u64::try_from(templates.len()).unwrap_or(u64::MAX);
        if workflows > 0 || templates > 0 {
            let name = template.head.name;
            return Err(StoreError::TemplateInUse { name, workflows, templates });
        }
        let delete = sqlx::query("DELETE FROM templates WHERE id = $1").bind(id.to_string());
        delete.execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(template)
    }

    /// The templates that `body` needs if it is called `name`, itself among them.
    ///
    /// # Errors
    /// It names what it includes in a way that cannot be followed.
    pub(crate) async fn library(&self, name: &str, body: &str) -> Result<Library, StoreError> {
        library(&mut *self.reader.acquire().await?, &[(name, body)]).await
    }
}

/// The template with `id` in the version in use, and the templates that it needs, itself among them.
pub(super) async fn with_library(
    db: &mut DbConnection,
    id: TemplateId,
) -> Result<(TemplateHead, Library), StoreError> {
    let Template { head, body } = load(db, id, None).await?;
    let library = library(db, &[(&head.name, &body)]).await?;
    Ok((head, library))
}

/// Refuses ids that name no template.
pub(super) async fn check_exist(
    db: &mut DbConnection,
    ids: impl Iterator<Item = &TemplateId>,
) -> Result<(), StoreError> {
    for id in ids {
        let found = sqlx::query("SELECT 1 FROM templates WHERE id = $1").bind(id.to_string());
        if found.fetch_optional(&mut *db).await?.is_none() {
            let id = id.to_string();
            return Err(StoreError::Unknown { field: "templates", what: "template", id });
        }
    }
    Ok(())
}

/// Puts what `change` makes of `old` in its place.
async fn replace(
    db: &mut DbConnection,
    old: Template,
    version: Option<u64>,
    now: Timestamp,
    change: impl FnOnce(Template) -> Template,
) -> Result<Template, StoreError> {
    check_version(version, old.head.version)?;
    let (id, old_name) = (old.head.id, old.head.name.clone());
    let version = old.head.version + 1;
    let mut template = change(old);
    (template.head.version, template.head.updated_at) = (version, now);
    template.head.size_bytes = size(&template.body);
    check_name(db, &template.head).await?;
    let users = includers(db, &old_name).await?;
    if template.head.name != old_name && !users.is_empty() {
        let templates = u64::try_from(users.len()).unwrap_or(u64::MAX);
        return Err(StoreError::TemplateInUse { name: old_name, workflows: 0, templates });
    }
    check_text(db, &template).await?;
    for user in users {
        let Some(user) = find_by_name(db, &user).await? else { continue };
        let new =
            [(user.head.name.as_str(), user.body.as_str()), (&template.head.name, &template.body)];
        let library = library(db, &new).await?;
        library.check(&user.head.name).map_err(StoreError::Template)?;
    }
    sqlx::query("UPDATE templates SET name = $2, version = $3 WHERE id = $1")
        .bind(id.to_string())
        .bind(&template.head.name)
        .bind(int(version))
        .execute(&mut *db)
        .await?;
    keep(db, &template).await?;
    records::renumber(db, Reach::All).await?;
    Ok(template)
}

/// Writes a version and what it includes, and forgets the oldest.
async fn keep(db: &mut DbConnection, template: &Template) -> Result<(), StoreError> {
    let TemplateHead { id, name, kind, description, size_bytes, updated_at, version, .. } =
        &template.head;
    sqlx::query(
        "INSERT INTO template_versions (template_id, version, name, kind, description, body, size_bytes, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(id.to_string())
    .bind(int(*version))
    .bind(name)
    .bind(kind.as_str())
    .bind(description)
    .bind(&template.body)
    .bind(int(*size_bytes))
    .bind(updated_at.unix_ms())
    .execute(&mut *db)
    .await?;
    sqlx::query("DELETE FROM template_versions WHERE template_id = $1 AND version <= $2")
        .bind(id.to_string())
        .bind(int(version.saturating_sub(VERSIONS_MAX)))
        .execute(&mut *db)
        .await?;
    let forget = sqlx::query("DELETE FROM template_includes WHERE template_id = $1");
    forget.bind(id.to_string()).execute(&mut *db).await?;
    for name in included(template.head.name.as_str(), &template.body)? {
        sqlx::query("INSERT INTO template_includes (template_id, name) VALUES ($1, $2)")
            .bind(id.to_string())
            .bind(name)
            .execute(&mut *db)
            .await?;
    }
    Ok(())
}

/// The length of a text in bytes.
fn size(body: &str) -> u64 {
    u64::try_from(body.len()).unwrap_or(u64::MAX)
}

fn included(name: &str, body: &str) -> Result<BTreeSet<String>, StoreError> {
    let includes = answer::includes(name, body).map_err(StoreError::Template)?;
    Ok(includes.into_iter().map(|include| include.name).collect())
}

/// The names of the templates that include `name`, directly or through others.
async fn includers(db: &mut DbConnection, name: &str) -> Result<Vec<String>, StoreError> {
    let rows = sqlx::query(
        "WITH RECURSIVE users (name) AS (
            SELECT t.name FROM templates t JOIN template_includes i ON i.template_id = t.id WHERE i.name = $1
            UNION SELECT t.name FROM templates t JOIN template_includes i ON i.template_id = t.id
            JOIN users u ON i.name = u.name
         ) SELECT name FROM users ORDER BY name",
    );
    let rows = rows.bind(name).fetch_all(db).await?;
    Ok(rows.iter().map(|row| row.try_get("name")).collect::<Result<_, _>>()?)
}

async fn check_text(db: &mut DbConnection, template: &Template) -> Result<(), StoreError> {
    let name = &template.head.name;
    library(db, &[(name, &template.body)]).await?.check(name).map_err(StoreError::Template)
}

/// The templates of `new`, names and texts, and those that they need. One that is not there is missing in it too.
async fn library(db: &mut DbConnection, new: &[(&str, &str)]) -> Result<Library, StoreError> {
    let mut library = Library::default();
    let mut wanted: Vec<String> = Vec::new();
    for (name, body) in new {
        wanted.extend(included(name, body)?);
        library.insert((*name).to_owned(), (*body).to_owned());
    }
    let mut loaded = 0;
    while let Some(name) = wanted.pop() {
        // One more than allowed is enough for the check to refuse.
        if library.contains(&name) || loaded > INCLUDES_MAX {
            continue;
        }
        if let Some(template) = find_by_name(db, &name).await? {
            wanted.extend(included(&name, &template.body)?);
            library.insert(name, template.body);
            loaded += 1;
        }
    }
    Ok(library)
}

async fn find_by_name(db: &mut DbConnection, name: &str) -> Result<Option<Template>, StoreError> {
    let row = sqlx::query(sqlx::AssertSqlSafe(format!(
        "{WHOLE} AND v.version = t.version WHERE t.name = $1"
    )));
    row.bind(name).fetch_optional(db).await?.map(|row| read(&row)).transpose()
}

async fn load(
    db: &mut DbConnection,
    id: TemplateId,
    version: Option<u64>,
) -> Result<Template, StoreError> {
    let row = sqlx::query(sqlx::AssertSqlSafe(format!(
        "{WHOLE} WHERE t.id = $1 AND v.version = coalesce($2, t.version)"
    )))
    .bind(id.to_string())
    .bind(version.map(int))
    .fetch_optional(db)
    .await?;
    let missing = || match version {
        Some(version) => StoreError::Missing {
            what: "kept version of the template",
            id: format!("{id}/{version}"),
        },
        None => StoreError::Missing { what: "template", id: id.to_string() },
    };
    read(&row.ok_or_else(missing)?)
}

async fn check_name(db: &mut DbConnection, head: &TemplateHead) -> Result<(), StoreError> {
    let taken = sqlx::query("SELECT 1 FROM templates WHERE name = $1 AND id <> $2")
        .bind(&head.name)
        .bind(head.id.to_string())
        .fetch_optional(db)
        .await?;
    match taken {
        Some(_) => Err(StoreError::NameTaken { what: "template", name: head.name.clone() }),
        None => Ok(()),
    }
}

fn read(row: &DbRow) -> Result<Template, StoreError> {
    Ok(Template { head: read_head(row)?, body: row.try_get("body")? })
}

fn read_head(row: &DbRow) -> Result<TemplateHead, StoreError> {
    Ok(TemplateHead {
        id: word(row, "id")?,
        name: row.try_get("name")?,
        kind: word(row, "kind")?,
        description: row.try_get("description")?,
        size_bytes: count(row, "size_bytes")?,
        created_at: time(row, "created_at")?,
        updated_at: time(row, "updated_at")?,
        version: count(row, "version")?,
    })
}
