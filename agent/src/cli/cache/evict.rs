//! `pureboot-agent cache evict`

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use http_body_util::{Empty, Full};
use hyper::Request;
use hyper::body::Bytes;
use pureboot_protocol::{Category, ContentKey, Success};

use super::{CACHE, PATIENCE, counted};
use crate::cache::manage::Removed;
use crate::cli::arguments::asks;
use crate::cli::{json, print};
use crate::data_dir::DataDir;
use crate::manage::client::send;
use crate::status::size;
use crate::sync::report::{Evicted, Eviction, EvictionOrder};

asks! {
    /// let content go: one name, or what a policy says; boot loaders, what is pinned, what was added by hand and what is being read
    /// stay then, and what the manifest names while the controller is away
    #[argh(subcommand, name = "evict")]
    pub(super) struct Evict {
        /// category/path of the one name that goes, also one that was added by hand
        #[argh(positional)]
        name: Option<ContentKey>,
        /// what goes, without a name: expired (no longer in the manifest and unused for the site's retention), lru (what is over the
        /// limits), or all (what the manifest names comes back with the next sync); default: expired
        #[argh(option, from_str_fn(parse_eviction))]
        policy: Option<Eviction>,
        /// only this category: scripts, templates or images
        #[argh(option)]
        category: Option<Category>,
        /// at most so many objects
        #[argh(option)]
        max: Option<usize>,
    }
}

fn parse_eviction(word: &str) -> Result<Eviction, String> {
    match word {
        "expired" => Ok(Eviction::Expired),
        "lru" => Ok(Eviction::Lru),
        "all" => Ok(Eviction::All),
        _ => Err(format!("'{word}' is none of expired, lru, all")),
    }
}

impl Evict {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let socket = DataDir::open(&self.data_dir)?.socket();
        let Self { name, policy, category, max, json, .. } = self;
        match name {
            Some(name) => {
                let is_alone = policy.is_none() && category.is_none() && max.is_none();
                ensure!(
                    is_alone,
                    "{name} is one name: leave --policy, --category and --max away, or the name"
                );
                evict_name(&socket, &name, json)
            }
            None => {
                let policy = policy.unwrap_or(Eviction::Expired);
                evict_by(&socket, &EvictionOrder { policy, category, max_evict: max }, json)
            }
        }
    }
}

fn evict_name(socket: &Path, name: &ContentKey, json: bool) -> anyhow::Result<ExitCode> {
    let request = Request::delete(format!("{CACHE}/{name}"))
        .body(Empty::new())
        .context("cannot ask the agent")?;
    let removed: Removed = send::<Empty<Bytes>, Success<_>>(socket, request, PATIENCE)?.data;
    print(&match json {
        true => json::pretty(&removed)?,
        false => describe_removed(name, &removed),
    })
}

fn describe_removed(name: &ContentKey, removed: &Removed) -> String {
    let freed = match removed.freed_bytes {
        0 => "another name stands for the same bytes, so they stay".to_owned(),
        bytes => format!("{} are free", size(bytes)),
    };
    let next = match removed.in_manifest {
        true => "; the site's manifest names it, so it comes back",
        false => "",
    };
    format!("{name} went, {freed}{next}\n")
}

fn evict_by(socket: &Path, order: &EvictionOrder, json: bool) -> anyhow::Result<ExitCode> {
    let body = serde_json::to_vec(order).context("cannot write the order as JSON")?;
    let request = Request::post(format!("{CACHE}/evict"))
        .body(Full::from(body))
        .context("cannot ask the agent")?;
    let evicted: Evicted = send::<Full<Bytes>, Success<_>>(socket, request, PATIENCE)?.data;
    print(&match json {
        true => json::pretty(&evicted)?,
        false => describe_evicted(order.policy, &evicted),
    })
}

fn describe_evicted(policy: Eviction, evicted: &Evicted) -> String {
    let Evicted { evicted_count, freed_bytes, required_count } = *evicted;
    let mut text = match (evicted_count, policy) {
        (0, Eviction::Expired) => "nothing went: nothing is out of use for long enough".to_owned(),
        (0, Eviction::Lru) => "nothing went: nothing is over the limits".to_owned(),
        (0, Eviction::All) => "nothing went: nothing is held that may leave".to_owned(),
        (count, _) => format!("{} went, {} are free", counted(count, "object"), size(freed_bytes)),
    };
    if required_count > 0 {
        let stay = counted(required_count, "object");
        text += &format!("; {stay} of the site's manifest stay while the controller is away");
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use pureboot_protocol::Timestamp;

    use super::*;
    use crate::cache::manage::{EntryView, Kept};

    #[test]
    fn what_went_and_what_stays_is_told() {
        let told = |policy, evicted_count, required_count| {
            let freed_bytes = 1_000_000 * evicted_count;
            describe_evicted(policy, &Evicted { evicted_count, freed_bytes, required_count })
        };
        assert_eq!(told(Eviction::All, 1, 0), "1 object went, 1.0 MB are free\n");
        assert_eq!(told(Eviction::Lru, 0, 0), "nothing went: nothing is over the limits\n");
        let cut_off = told(Eviction::All, 2, 3);
        assert!(
            cut_off.ends_with(
                "; 3 objects of the site's manifest stay while the controller is away\n"
            ),
            "{cut_off}"
        );
        let removed = |freed_bytes, in_manifest| Removed {
            entry: EntryView {
                category: Category::Images,
                path: "a".to_owned(),
                size_bytes: 1_500_000,
                sha256: "ab12".to_owned(),
                updated_at: Timestamp::from_unix_ms(0),
                used_at: Timestamp::from_unix_ms(0),
                kept: Kept::Manifest,
                policy: None,
                leaves_at: None,
            },
            freed_bytes,
            in_manifest,
        };
        let name: ContentKey = "images/a".parse().expect("a name");
        assert_eq!(
            describe_removed(&name, &removed(1_500_000, true)),
            "images/a went, 1.5 MB are free; the site's manifest names it, so it comes back\n"
        );
        assert!(describe_removed(&name, &removed(0, false)).contains("another name"));
    }
}
