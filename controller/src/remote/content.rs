//! `content …`.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use pureboot_protocol::{Category, ContentKey};
use reqwest::Method;
use serde_json::Value;

use crate::config::UsageError;
use crate::print_line;
use crate::remote::arguments::{asks, noun};
use crate::remote::client::Query;
use crate::remote::resolve::text;
use crate::remote::screen::Column;
use crate::remote::session::Session;
use crate::remote::transfer::{self, Moved, Target};

/// How deep a directory that is uploaded may be.
const DEPTH_MAX: usize = 32;
/// How many files it may hold.
const FILES_MAX: usize = 100_000;

noun! {
    /// Look after content: the files that machines load, named CATEGORY/PATH. The categories are bootloaders, scripts, templates and images.
    #[argh(subcommand, name = "content", example = "{command_name} put linux images/debian/linux")]
    ContentArguments, ContentCommand {
        Put(Put),
        Get(Get),
        Ls(Ls),
        Rm(Rm),
    }
}

const COLUMNS: &[Column] = &[
    Column::plain("CATEGORY", "category"),
    Column::plain("PATH", "path"),
    Column::bytes("SIZE", "size_bytes"),
    Column::plain("UPDATED", "updated_at"),
    Column::plain("SHA-256", "sha256"),
];

fn key(name: &str) -> Result<ContentKey, UsageError> {
    name.parse().map_err(UsageError::new)
}

asks! {
    /// Upload a file, or with -r what is in a directory. What the controller has already is not sent again.
    #[argh(
        subcommand,
        name = "put",
        example = "{command_name} linux images/debian/linux\n{command_name} -r netboot images/debian"
    )]
    struct Put {
        /// the file or directory
        #[argh(positional)]
        source: PathBuf,

        /// its name at the controller, CATEGORY/PATH; one that ends with / takes the file's own name behind it
        #[argh(positional)]
        name: String,

        /// upload every file below a directory
        #[argh(switch, short = 'r')]
        recursive: bool,
    }
}

impl Put {
    async fn run(self) -> anyhow::Result<()> {
        let files = self.files()?;
        let session = self.session()?;
        let mut entries = Vec::new();
        for (file, name) in &files {
            let (entry, said) = put(&session, file, name).await?;
            if !session.screen.is_json {
                print_line(&format!("{name}  {said}"))?;
            }
            entries.push(entry);
        }
        match (session.screen.is_json, self.recursive, entries.as_slice()) {
            (false, _, _) => Ok(()),
            (true, false, [entry]) => session.screen.json(entry),
            (true, _, entries) => session.screen.json(&entries),
        }
    }

    /// What is to be uploaded, and under which names.
    fn files(&self) -> anyhow::Result<Vec<(PathBuf, ContentKey)>> {
        let source = &self.source;
        let metadata = source.metadata();
        let metadata = metadata.with_context(|| format!("cannot look at {}", source.display()))?;
        match (metadata.is_dir(), self.recursive) {
            (true, false) => {
                let text = format!("{} is a directory; -r uploads what is in it", source.display());
                Err(UsageError::new(text).into())
            }
            (true, true) => tree(source, self.name.trim_end_matches('/')),
            (false, _) if self.name.ends_with('/') => {
                let own = source.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                Ok(vec![(source.clone(), key(&format!("{}{own}", self.name))?)])
            }
            (false, _) => Ok(vec![(source.clone(), key(&self.name)?)]),
        }
    }
}

/// Uploads one file, unless it is there; returns what the controller says of it, and a sentence.
async fn put(session: &Session, file: &Path, name: &ContentKey) -> anyhow::Result<(Value, String)> {
    let (sha256, size_bytes) = transfer::hash(file, name).await?;
    if let Some(known) = known(session, name).await?
        && text(&known, "sha256") == sha256.to_string()
    {
        return Ok((known, "is there already".to_owned()));
    }
    let uploaded = transfer::upload(&session.client, name, file, (sha256, size_bytes)).await;
    let (entry, Moved { summary, sha256 }) = uploaded.with_context(|| format!("{name}"))?;
    Ok((entry, format!("{summary}, SHA-256 {sha256}")))
}

/// What the controller has under `name`, if anything.
async fn known(session: &Session, name: &ContentKey) -> anyhow::Result<Option<Value>> {
    let filter =
        vec![("category", name.category().to_string()), ("prefix", name.path().to_owned())];
    // Names come in order, so that the one that is the prefix is the first.
    let rows = session.client.list(&["content"], filter, Some(1)).await?;
    Ok(rows.into_iter().find(|row| text(row, "path") == name.path()))
}

/// Every file below `dir` with its name below `prefix`, in order.
///
/// # Errors
/// A name cannot be one of content; all such are told before anything is sent.
fn tree(dir: &Path, prefix: &str) -> anyhow::Result<Vec<(PathBuf, ContentKey)>> {
    let mut paths = Vec::new();
    walk(dir, prefix, DEPTH_MAX, &mut paths)?;
    ensure!(!paths.is_empty(), "there is no file in {}", dir.display());
    let (mut files, mut faults) = (Vec::new(), Vec::new());
    for (path, name) in paths {
        match name.parse() {
            Ok(key) => files.push((path, key)),
            Err(error) => faults.push(format!("  {}: {error}", path.display())),
        }
    }
    if !faults.is_empty() {
        bail!("nothing has been uploaded, because of these names:\n{}", faults.join("\n"));
    }
    Ok(files)
}

fn walk(
    dir: &Path,
    prefix: &str,
    depth: usize,
    found: &mut Vec<(PathBuf, String)>,
) -> anyhow::Result<()> {
    let what = || format!("cannot read {}", dir.display());
    let mut entries: Vec<_> =
        std::fs::read_dir(dir).and_then(Iterator::collect).with_context(what)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), entry.file_name());
        let name = format!("{prefix}/{}", name.to_string_lossy());
        // Through links: what they lead to is what the directory shows.
        let metadata = path.metadata();
        let metadata = metadata.with_context(|| format!("cannot look at {}", path.display()))?;
        if metadata.is_dir() {
            ensure!(depth > 0, "{} is more than {DEPTH_MAX} directories deep", path.display());
            walk(&path, &name, depth - 1, found)?;
        } else {
            ensure!(metadata.is_file(), "{} is neither a file nor a directory", path.display());
            ensure!(found.len() < FILES_MAX, "there are more than {FILES_MAX} files");
            found.push((path, name));
        }
    }
    Ok(())
}

asks! {
    /// Download a file and check it.
    #[argh(subcommand, name = "get", example = "{command_name} images/debian/linux linux\n{command_name} scripts/hello.ipxe --stdout")]
    struct Get {
        /// its name at the controller, CATEGORY/PATH
        #[argh(positional)]
        name: String,

        /// where to put it (default: its own name in the directory that is worked in)
        #[argh(positional)]
        file: Option<PathBuf>,

        /// write it to stdout
        #[argh(switch)]
        stdout: bool,
    }
}

impl Get {
    async fn run(self) -> anyhow::Result<()> {
        let name = key(&self.name)?;
        let target = match (self.stdout, &self.file) {
            (true, Some(_)) => {
                return Err(UsageError::new("FILE and --stdout do not go together").into());
            }
            (true, None) => Target::Stdout,
            (false, Some(file)) if file.is_dir() => Target::File(file.join(own_name(&name))),
            (false, Some(file)) => Target::File(file.clone()),
            (false, None) => Target::File(own_name(&name).into()),
        };
        let session = self.session()?;
        let Moved { summary, sha256 } = transfer::download(&session.client, &name, &target).await?;
        let Target::File(file) = &target else { return Ok(()) };
        let entry = serde_json::json!({"file": file, "sha256": sha256});
        session.screen.done(&entry, &format!("{}  {summary}, SHA-256 {sha256}", file.display()))
    }
}

fn own_name(name: &ContentKey) -> &str {
    name.path().rsplit('/').next().unwrap_or_default()
}

asks! {
    /// List content.
    #[argh(subcommand, name = "ls", example = "{command_name} images/debian")]
    struct Ls {
        /// only what has this category, or CATEGORY/ and this beginning of a path
        #[argh(positional)]
        prefix: Option<String>,
    }
}

impl Ls {
    async fn run(self) -> anyhow::Result<()> {
        let mut query = Query::new();
        if let Some(prefix) = &self.prefix {
            let (category, path) = prefix.split_once('/').unwrap_or((prefix, ""));
            let category: Category = category.parse().map_err(UsageError::new)?;
            query.push(("category", category.to_string()));
            query.extend((!path.is_empty()).then(|| ("prefix", path.to_owned())));
        }
        self.session()?.show_list(&["content"], query, None, COLUMNS).await
    }
}

asks! {
    /// Delete content.
    #[argh(subcommand, name = "rm", example = "{command_name} images/debian/linux --yes")]
    struct Rm {
        /// its name, CATEGORY/PATH; can be repeated
        #[argh(positional)]
        names: Vec<String>,

        /// do not ask
        #[argh(switch)]
        yes: bool,
    }
}

impl Rm {
    async fn run(self) -> anyhow::Result<()> {
        let names = self.names.iter().map(|name| key(name)).collect::<Result<Vec<_>, _>>()?;
        if names.is_empty() {
            return Err(UsageError::new("expected at least one CATEGORY/PATH").into());
        }
        let session = self.session()?;
        session.confirm(self.yes, &format!("Delete {}?", self.names.join(", ")))?;
        for name in &names {
            let path = transfer::path(name);
            let gone = session.client.send(Method::DELETE, &path, Query::new(), None).await?;
            session.screen.done(&gone, &format!("deleted {name}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_uploaded_whole_or_not_at_all() {
        let dir = tempfile::tempdir().expect("a directory");
        let make = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, name).expect("written");
        };
        make("linux");
        make("sub/initrd.gz");
        let names = || -> Result<Vec<String>, String> {
            let files = tree(dir.path(), "images/debian").map_err(|error| error.to_string())?;
            Ok(files.iter().map(|(_, name)| name.to_string()).collect())
        };
        let expected = ["images/debian/linux", "images/debian/sub/initrd.gz"];
        assert_eq!(names(), Ok(expected.map(str::to_owned).to_vec()));
        make("with space");
        let error = names().expect_err("a name that content cannot have");
        assert!(
            error.contains("nothing has been uploaded") && error.contains("with space"),
            "{error}"
        );
    }

    #[test]
    fn a_tree_that_leads_into_itself_ends() {
        let dir = tempfile::tempdir().expect("a directory");
        std::os::unix::fs::symlink(".", dir.path().join("a")).expect("made");
        assert!(tree(dir.path(), "images").is_err());
    }
}
