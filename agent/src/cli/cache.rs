//! `pureboot-agent cache …`

mod evict;
mod nodes;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use argh::FromArgs;
use http_body_util::{Empty, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::header::CONTENT_LENGTH;
use hyper::{Method, Request};
use pureboot_protocol::{Category, ContentKey, Page, Success, Timestamp};
use smol::stream::{self, Stream};

use super::json;
use crate::cache::manage::{EntryView, NodeCache, StatsView, Verified, Word};
use crate::cli::arguments::{asks, placed};
use crate::clock;
use crate::data_dir::DataDir;
use crate::manage::client::{ask, send};
use crate::status::{size, span};
use crate::sync::housekeeper::Gone;
use crate::sync::report::{GivenUp, LeftOut, PinState};
use crate::sync::verdicts::{Opinion, VerdictCounts};

/// A copy that moves is not hurried; one that stands still is ended by the agent.
const PATIENCE: Duration = Duration::from_secs(24 * 3_600);

const CACHE: &str = "/api/v1/agent/cache";
const ENTRIES: &str = "/api/v1/agent/cache/entries";
const PINS: &str = "/api/v1/agent/cache/pins";
const GIVEN_UP: &str = "/api/v1/agent/cache/given-up";

const CHUNK_LEN: usize = 256 * 1024;

/// put content into the running agent's cache and look at it
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "cache")]
pub(super) struct Cache {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
enum Command {
    Add(Add),
    Ls(Ls),
    Stats(Stats),
    Verify(Verify),
    Evict(evict::Evict),
    Nodes(nodes::Nodes),
    Pin(Pin),
    Unpin(Unpin),
}

placed! {
    /// copy a file into the cache under a name such as bootloaders/undionly.kpxe or images/debian/linux
    #[argh(subcommand, name = "add")]
    struct Add {
        /// category/path; the category is one of bootloaders, scripts, templates, images
        #[argh(positional)]
        name: ContentKey,
        /// the file
        #[argh(positional)]
        file: PathBuf,
    }
}

asks! {
    /// list what the cache holds, and why it stays
    #[argh(subcommand, name = "ls")]
    struct Ls {
        /// only this category: bootloaders, scripts, templates or images
        #[argh(option)]
        category: Option<Category>,
    }
}

asks! {
    /// tell how much the cache holds, of what, and how full it may be
    #[argh(subcommand, name = "stats")]
    struct Stats {}
}

asks! {
    /// read content again; what is damaged is set aside and fetched anew; exit code 0: all is sound, 1: something was damaged
    #[argh(subcommand, name = "verify")]
    struct Verify {
        /// only this name (default: all that the cache holds)
        #[argh(positional)]
        name: Option<ContentKey>,
    }
}

asks! {
    /// keep what a name stands for whatever is short of space and however long it is unused; one that is missing is fetched
    #[argh(subcommand, name = "pin")]
    struct Pin {
        /// category/path
        #[argh(positional)]
        name: ContentKey,
    }
}

asks! {
    /// let a pinned name leave again like any other
    #[argh(subcommand, name = "unpin")]
    struct Unpin {
        /// category/path
        #[argh(positional)]
        name: ContentKey,
    }
}

impl Cache {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Add(add) => add.run(),
            Command::Ls(ls) => ls.run(),
            Command::Stats(stats) => stats.run(),
            Command::Verify(verify) => verify.run(),
            Command::Evict(evict) => evict.run(),
            Command::Nodes(nodes) => nodes.run(),
            Command::Pin(Pin { name, json, data_dir }) => {
                set_pin(Method::PUT, &name, json, &data_dir)
            }
            Command::Unpin(Unpin { name, json, data_dir }) => {
                set_pin(Method::DELETE, &name, json, &data_dir)
            }
        }
    }
}

impl Add {
    fn run(self) -> anyhow::Result<ExitCode> {
        let socket = DataDir::open(&self.data_dir)?.socket();
        let (body, len) = upload(&self.file)?;
        let request = Request::put(format!("/api/v1/agent/cache/{}", self.name))
            .header(CONTENT_LENGTH, len)
            .body(body)
            .context("cannot ask the agent")?;
        let added: Success<EntryView> = send(&socket, request, PATIENCE)?;
        let EntryView { category, path, size_bytes, sha256, .. } = added.data;
        super::print(&format!("{category}/{path}: {}, sha256 {sha256}\n", size(size_bytes)))
    }
}

impl Stats {
    fn run(self) -> anyhow::Result<ExitCode> {
        let socket = DataDir::open(&self.data_dir)?.socket();
        let stats: Success<serde_json::Value> = ask(&socket, CACHE)?;
        if self.json {
            return super::print(&json::pretty(&stats.data)?);
        }
        let stats = json::typed(&stats.data)?;
        super::print(&describe_stats(&stats, clock::now()))
    }
}

fn describe_stats(stats: &StatsView, now: Timestamp) -> String {
    let mut text = format!("{:<12}  {:>7}  {:>10}\n", "CATEGORY", "NAMES", "SIZE");
    for (category, held) in &stats.categories {
        let (count, size) = (held.count, size(held.size_bytes));
        _ = writeln!(text, "{:<12}  {count:>7}  {size:>10}", category.as_str());
    }
    let most = match (stats.max_size_bytes, stats.usage_percent) {
        (Some(most), Some(percent)) => format!(" of at most {} ({percent:.1} %)", size(most)),
        _ => String::new(),
    };
    let patterns = match stats.patterns.as_slice() {
        [] => String::new(),
        patterns => format!(" ({})", patterns.join(", ")),
    };
    let (held, policy) = (size(stats.total_size_bytes), stats.policy);
    _ = writeln!(text, "held: {held}{most}; policy: {policy}{patterns}");
    text += &describe_word(&stats.word, now);
    let NodeCache { count, oldest_entry } = stats.node_cache;
    let oldest = oldest_entry.map_or(String::new(), |at| {
        let age = u64::try_from(now.seconds_since(at)).unwrap_or(0);
        format!(", the oldest record learnt {} ago", span(age))
    });
    _ = writeln!(text, "remembered: {}{oldest}", counted(count, "machine"));
    text + &stats.policies.map_or(String::new(), |verdicts| describe_verdicts(&verdicts, now))
}

/// By which word of the controller content is kept, in one line.
fn describe_word(word: &Word, now: Timestamp) -> String {
    let heard = word.settings_heard_at.map_or("by a former run".to_owned(), |at| {
        format!("{} ago", span(u64::try_from(now.seconds_since(at)).unwrap_or(0)))
    });
    let version = word.settings_version;
    let manifest = match (word.manifest_version, word.manifest_coming) {
        (_, Some(coming)) => format!("manifest {coming} is known and comes with the next sync"),
        (Some(held), None) => format!("manifest {held}"),
        (None, None) => "no manifest yet".to_owned(),
    };
    format!("by: settings {version}, heard {heard}, newer ones come with a heartbeat; {manifest}\n")
}

/// So many of what is called `noun`.
fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

impl Verify {
    fn run(self) -> anyhow::Result<ExitCode> {
        let socket = DataDir::open(&self.data_dir)?.socket();
        let query = self.name.map_or(String::new(), |name| format!("?name={name}"));
        let request = Request::post(format!("{CACHE}/verify{query}"))
            .body(Empty::new())
            .context("cannot ask the agent")?;
        let verified: Verified = send::<Empty<Bytes>, Success<_>>(&socket, request, PATIENCE)?.data;
        super::print(&match self.json {
            true => json::pretty(&verified)?,
            false => describe_verified(&verified),
        })?;
        Ok(if verified.damaged.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn describe_verified(verified: &Verified) -> String {
    let Verified { sound_count, damaged, coming } = verified;
    let mut text = match (sound_count, damaged.as_slice()) {
        (0, []) => "nothing is held that could be verified\n".to_owned(),
        (1, _) => "1 object is sound\n".to_owned(),
        (count, _) => format!("{count} objects are sound\n"),
    };
    for name in damaged {
        let next = match coming.contains(name) {
            true => "it is fetched again at once, or when the controller is back",
            false => {
                "the controller has none for this site: `pureboot-agent cache add` puts it in again"
            }
        };
        _ = writeln!(text, "{name} was damaged and is set aside; {next}");
    }
    text
}

fn set_pin(
    method: Method,
    name: &ContentKey,
    json: bool,
    data_dir: &Path,
) -> anyhow::Result<ExitCode> {
    let socket = DataDir::open(data_dir)?.socket();
    let request = Request::builder()
        .method(method)
        .uri(format!("{PINS}/{name}"))
        .body(Empty::new())
        .context("cannot ask the agent")?;
    let state: PinState = send::<Empty<Bytes>, Success<_>>(&socket, request, PATIENCE)?.data;
    super::print(&match json {
        true => json::pretty(&state)?,
        false => describe_pin(&state),
    })
}

fn describe_pin(state: &PinState) -> String {
    let PinState { name, pinned, held, in_manifest } = state;
    let consequence = match (pinned, held, in_manifest) {
        (true, true, _) => "it stays",
        (true, false, true) => "it is not here yet, and comes",
        (true, false, false) => "it is not here, and comes when the site's manifest names it",
        (false, true, _) => "it stays as long as others of its kind",
        (false, false, _) => "it is not here",
    };
    format!("{name} is {}: {consequence}\n", if *pinned { "pinned" } else { "not pinned" })
}

type Chunks =
    StreamBody<std::pin::Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, std::io::Error>>>>>;

/// The file as the body of a request, with its length; tells how far it is on a terminal.
fn upload(path: &Path) -> anyhow::Result<(Chunks, u64)> {
    // Before it is opened, because opening a FIFO waits for a writer.
    let metadata =
        std::fs::metadata(path).with_context(|| format!("cannot look at {}", path.display()))?;
    ensure!(metadata.is_file(), "{} is not a regular file", path.display());
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let len = metadata.len();
    if len == 0 {
        let read =
            file.read(&mut [0]).with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(
            read == 0,
            "{} does not say how long it is; copy it into a plain file first",
            path.display()
        );
    }
    let is_watched = std::io::stderr().is_terminal();
    let chunks = stream::try_unfold((file, 0), move |(mut file, sent)| async move {
        let mut chunk = vec![0; CHUNK_LEN];
        // This program has nothing else to do while it reads.
        let read = file.read(&mut chunk)?;
        chunk.truncate(read);
        if is_watched {
            progress(sent, len);
        }
        let frame = (read > 0).then(|| Frame::data(Bytes::from(chunk)));
        Ok(frame.map(|frame| (frame, (file, sent + read as u64))))
    });
    Ok((StreamBody::new(Box::pin(chunks)), len))
}

fn progress(sent: u64, len: u64) {
    use std::io::Write as _;

    let end = if sent >= len { "\n" } else { "" };
    // Nobody is harmed by a lost progress line.
    _ = write!(std::io::stderr(), "\r{} of {}   {end}", size(sent), size(len));
}

impl Ls {
    fn run(self) -> anyhow::Result<ExitCode> {
        let socket = DataDir::open(&self.data_dir)?.socket();
        let entries = all_entries(&socket, self.category)?;
        if self.json {
            return super::print(&json::pretty(&entries)?);
        }
        let is_shown =
            |key: &ContentKey| self.category.is_none_or(|category| key.category() == category);
        let pins: Success<BTreeSet<ContentKey>> = ask(&socket, PINS)?;
        let mut pins = pins.data;
        pins.retain(is_shown);
        let given_up: Success<GivenUp> = ask(&socket, GIVEN_UP)?;
        let mut given_up = given_up.data;
        given_up.left_out.retain(|left_out| is_shown(&left_out.name));
        given_up.gone.retain(|gone| is_shown(&gone.name));
        let now = clock::now();
        let listed = table(&entries, &pins, self.category, now);
        super::print(&(listed + &describe_given_up(&given_up, now)))
    }
}

/// Every name, page by page.
fn all_entries(socket: &Path, category: Option<Category>) -> anyhow::Result<Vec<EntryView>> {
    let mut entries = Vec::new();
    let only = category.map_or(String::new(), |category| format!("category={category}&"));
    let mut path = format!("{ENTRIES}?{only}");
    loop {
        let page: Page<EntryView> = ask(socket, &path)?;
        entries.extend(page.data);
        match page.next_cursor {
            Some(cursor) => path = format!("{ENTRIES}?{only}cursor={cursor}"),
            None => return Ok(entries),
        }
    }
}

fn table(
    entries: &[EntryView],
    pins: &BTreeSet<ContentKey>,
    category: Option<Category>,
    now: Timestamp,
) -> String {
    let name = |entry: &EntryView| format!("{}/{}", entry.category, entry.path);
    let width = entries.iter().map(|entry| name(entry).len()).max().unwrap_or(0);
    let mut text = match entries {
        [] => {
            let (what, place) = match category {
                Some(category) => (format!(" of {category}"), category.as_str()),
                None => (String::new(), "CATEGORY"),
            };
            format!(
                "nothing{what} is held; `pureboot-agent sync` brings what the controller has for the site, \
                 `pureboot-agent cache add {place}/PATH FILE` puts something in by hand\n"
            )
        }
        _ => format!(
            "{:<width$}  {:>10}  {:>12}  {:<21}  SHA-256\n",
            "NAME", "SIZE", "UNUSED", "KEPT"
        ),
    };
    let mut said = String::new();
    let mut missing = pins.clone();
    for entry in entries {
        let (name, size) = (name(entry), size(entry.size_bytes));
        let unused = span(u64::try_from(now.seconds_since(entry.used_at)).unwrap_or(0));
        let kept = match entry.leaves_at.map(|at| u64::try_from(at.seconds_since(now))) {
            None => entry.kept.words().to_owned(),
            Some(Ok(left_s)) if left_s > 0 => format!("{} more", span(left_s)),
            Some(_) => "leaves next".to_owned(),
        };
        let sha256 = &entry.sha256;
        _ = writeln!(text, "{name:<width$}  {size:>10}  {unused:>12}  {kept:<21}  {sha256}");
        missing.retain(|key| key.to_string() != name);
        if let Some(opinion) = &entry.policy {
            _ = writeln!(said, "{name}: {}", Opinion::words(opinion));
        }
    }
    text += &said;
    for key in missing {
        _ = writeln!(text, "{key} is pinned and not here");
    }
    text
}

/// What is not here because policies give it up, and what has left for that.
fn describe_given_up(given_up: &GivenUp, now: Timestamp) -> String {
    let mut text = String::new();
    for left_out in &given_up.left_out {
        let LeftOut { name, by } = left_out;
        _ = writeln!(text, "{name} is left out until a machine asks: {by} gives it up");
    }
    for Gone { name, by, at } in &given_up.gone {
        let ago = span(u64::try_from(now.seconds_since(*at)).unwrap_or(0));
        _ = writeln!(text, "{name} left {ago} ago: {by} gave it up");
    }
    text
}

/// What comes of the words of policies, in one line.
fn describe_verdicts(verdicts: &VerdictCounts, now: Timestamp) -> String {
    let VerdictCounts { pinned_count, given_up_count, beyond_budget_count, .. } = *verdicts;
    let (pinned, most) = (size(verdicts.pinned_bytes), size(verdicts.pinned_bytes_max));
    let beyond = match beyond_budget_count {
        0 => String::new(),
        count => format!(", {} more would be", counted(count, "name")),
    };
    let ago = span(u64::try_from(now.seconds_since(verdicts.given_at)).unwrap_or(0));
    format!(
        "policies: {} pinned ({pinned} of at most {most}){beyond}, {} given up, asked {ago} ago\n",
        counted(pinned_count, "name"),
        counted(given_up_count, "name")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::manage::Kept;
    use expect_test::expect;

    fn entry(category: Category, path: &str, kept: Kept) -> EntryView {
        EntryView {
            category,
            path: path.to_owned(),
            size_bytes: 1_500_000,
            sha256: "ab12".to_owned(),
            updated_at: Timestamp::from_unix_ms(0),
            used_at: Timestamp::from_unix_ms(0),
            kept,
            policy: None,
            leaves_at: (kept == Kept::Retention).then(|| Timestamp::from_unix_ms(86_400_000)),
        }
    }

    #[test]
    fn a_person_reads_what_is_held_and_why_it_stays() {
        let entries = [
            entry(Category::Bootloaders, "ipxe.efi", Kept::Loader),
            entry(Category::Scripts, "old.ipxe", Kept::Retention),
            entry(Category::Images, "debian/linux", Kept::Pinned),
        ];
        let key = |text: &str| text.parse::<ContentKey>().expect("a name");
        let pins = BTreeSet::from([key("images/debian/linux"), key("images/rescue")]);
        expect![[r#"
            NAME                        SIZE        UNUSED  KEPT                   SHA-256
            bootloaders/ipxe.efi      1.5 MB     1 h 0 min  loader                 ab12
            scripts/old.ipxe          1.5 MB     1 h 0 min  23 h 0 min more        ab12
            images/debian/linux       1.5 MB     1 h 0 min  pinned by you          ab12
            images/rescue is pinned and not here
        "#]]
        .assert_eq(&table(&entries, &pins, None, Timestamp::from_unix_ms(3_600_000)));
        let empty = |category| table(&[], &BTreeSet::new(), category, Timestamp::from_unix_ms(0));
        assert!(empty(None).starts_with("nothing is held; `pureboot-agent sync`"));
        assert!(empty(Some(Category::Images)).contains("cache add images/PATH FILE"));
    }

    #[test]
    fn figures_tell_how_full_the_cache_is_and_what_is_known_of_machines() {
        let text = serde_json::json!({
            "total_size_bytes": 250_000_000, "max_size_bytes": 1_000_000_000, "usage_percent": 25.0,
            "policy": "pattern", "patterns": ["images/debian/**"],
            "settings_version": 3, "settings_heard_at": "1970-01-01T00:04:20Z",
            "manifest_version": 7, "manifest_coming": null,
            "categories": {"images": {"count": 2, "size_bytes": 250_000_000}},
            "node_cache": {"count": 1, "oldest_entry": "1970-01-01T00:00:00Z"},
        });
        let stats = serde_json::from_value(text).expect("the agent's answer");
        expect![[r#"
            CATEGORY        NAMES        SIZE
            images              2    250.0 MB
            held: 250.0 MB of at most 1.0 GB (25.0 %); policy: pattern (images/debian/**)
            by: settings 3, heard 40 s ago, newer ones come with a heartbeat; manifest 7
            remembered: 1 machine, the oldest record learnt 5 min 0 s ago
        "#]]
        .assert_eq(&describe_stats(&stats, Timestamp::from_unix_ms(300_000)));
    }

    #[test]
    fn d7_damage_is_told_with_what_comes_of_it() {
        let key = |text: &str| text.parse::<ContentKey>().expect("a name");
        let verified = Verified {
            sound_count: 1,
            damaged: vec![key("images/a"), key("images/b")],
            coming: vec![key("images/a")],
        };
        expect![[r#"
            1 object is sound
            images/a was damaged and is set aside; it is fetched again at once, or when the controller is back
            images/b was damaged and is set aside; the controller has none for this site: `pureboot-agent cache add` puts it in again
        "#]]
        .assert_eq(&describe_verified(&verified));
        let nothing = Verified { sound_count: 0, damaged: vec![], coming: vec![] };
        assert_eq!(describe_verified(&nothing), "nothing is held that could be verified\n");
    }

    #[test]
    fn a_pin_tells_what_it_means() {
        let name: ContentKey = "images/a".parse().expect("a name");
        let told = |pinned, held, in_manifest| {
            describe_pin(&PinState { name: name.clone(), pinned, held, in_manifest })
        };
        assert_eq!(told(true, true, false), "images/a is pinned: it stays\n");
        assert!(told(true, false, true).contains("and comes\n"));
        assert!(told(true, false, false).contains("when the site's manifest names it"));
        assert!(told(false, true, true).starts_with("images/a is not pinned"));
    }
}
