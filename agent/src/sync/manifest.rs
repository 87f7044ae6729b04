//! Which manifest is believed, and what it says of a name. Values in, values out.
//!
//! A manifest that is refused changes nothing: the one that is held stands, and so do the names in the cache.

use std::collections::{HashMap, HashSet};

use pureboot_protocol::{
    ContentHash, ContentKey, Manifest, ManifestEntry, POLICIES_MAX, PluginId, PolicyAssignment,
    PublicKey, SignedManifest, SiteId, Timestamp,
};

use crate::seal::{self, Unproven};

/// Why a manifest is not believed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unbelieved {
    /// The pinned key has not signed it, or has signed what this agent cannot read.
    #[error(transparent)]
    Unproven(#[from] Unproven),
    /// It is for others.
    #[error("it is site {0}'s")]
    OtherSite(SiteId),
    /// A rollback.
    #[error("version {offered} is older than version {held}, which is held")]
    Older {
        /// Of the manifest that is refused.
        offered: u64,
        /// Of the manifest that stands.
        held: u64,
    },
    /// Versions rise when content changes, so one of two that differ is not the controller's last word.
    #[error("it says other things than the version {0} that is held")]
    Rewritten(u64),
    /// The same version, made before the one that is held.
    #[error("it was issued at {offered}, before the one that is held, at {held}")]
    Earlier {
        /// Of the manifest that is refused.
        offered: Timestamp,
        /// Of the manifest that stands.
        held: Timestamp,
    },
    /// Nobody who can reach the controller should have it.
    #[error("it has expired at {0}")]
    Expired(Timestamp),
    /// One name cannot stand for two things.
    #[error("it names {0} twice")]
    Twice(ContentKey),
    /// One word cannot count twice.
    #[error("it names the policy {0} twice")]
    PolicyTwice(PluginId),
    /// More policies than are asked for one machine.
    #[error("it names {0} policies, at most {POLICIES_MAX}")]
    Policies(usize),
    /// One of two entries lies about the same bytes.
    #[error("object {0} is said to have two lengths")]
    Lengths(ContentHash),
}

/// A manifest that is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    /// Its entries in the order of [`ContentKey`], which begins with boot loaders.
    manifest: Manifest,
}

impl Catalog {
    /// Believes `signed` if `key` has signed it, it is `site`'s, and it is consistent in itself. The signature is checked
    /// before the text is read.
    ///
    /// # Errors
    /// What speaks against it.
    pub fn verify(
        signed: &SignedManifest,
        key: &PublicKey,
        site: SiteId,
    ) -> Result<Self, Unbelieved> {
        let mut manifest = seal::open(signed, key)?;
        if manifest.site_id != site {
            return Err(Unbelieved::OtherSite(manifest.site_id));
        }
        manifest.entries.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        check_entries(&manifest.entries)?;
        check_policies(&manifest.policies)?;
        Ok(Self { manifest })
    }

    /// Whether this catalog, which the controller has just sent, may follow the one that is `held`. `now` is none where the
    /// clock cannot be trusted: then nothing is refused for its age.
    ///
    /// # Errors
    /// It would be a step back, or contradicts what is held (FAULTS C12).
    pub fn check_successor(
        &self,
        held: Option<&Self>,
        now: Option<Timestamp>,
    ) -> Result<(), Unbelieved> {
        if now.is_some_and(|now| self.is_expired(now)) {
            return Err(Unbelieved::Expired(self.manifest.expires_at));
        }
        let Some(held) = held.map(|held| &held.manifest) else { return Ok(()) };
        let offered = &self.manifest;
        if offered.version < held.version {
            return Err(Unbelieved::Older { offered: offered.version, held: held.version });
        }
        if offered.version > held.version {
            return Ok(());
        }
        if offered.entries != held.entries || offered.policies != held.policies {
            return Err(Unbelieved::Rewritten(held.version));
        }
        if offered.issued_at < held.issued_at {
            let (offered, held) = (offered.issued_at, held.issued_at);
            return Err(Unbelieved::Earlier { offered, held });
        }
        let is_same_issue = offered.issued_at == held.issued_at;
        if is_same_issue && offered != held {
            return Err(Unbelieved::Rewritten(held.version));
        }
        Ok(())
    }

    /// Its version.
    pub fn version(&self) -> u64 {
        self.manifest.version
    }

    /// When it was made.
    pub fn issued_at(&self) -> Timestamp {
        self.manifest.issued_at
    }

    /// Whether a site that could reach its controller would have a later one. It is served by all the same.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.manifest.expires_at < now
    }

    /// Everything that the site is to hold, boot loaders first.
    pub fn entries(&self) -> &[ManifestEntry] {
        &self.manifest.entries
    }

    /// The site's policies, in the order in which they are asked.
    pub fn policies(&self) -> &[PolicyAssignment] {
        &self.manifest.policies
    }

    /// What a name is to stand for.
    pub fn entry(&self, key: &ContentKey) -> Option<&ManifestEntry> {
        let at = self.manifest.entries.binary_search_by(|entry| entry.key.cmp(key)).ok()?;
        self.manifest.entries.get(at)
    }
}

fn check_policies(policies: &[PolicyAssignment]) -> Result<(), Unbelieved> {
    if policies.len() > POLICIES_MAX {
        return Err(Unbelieved::Policies(policies.len()));
    }
    let mut names = HashSet::new();
    match policies.iter().find(|policy| !names.insert(&policy.plugin)) {
        Some(twice) => Err(Unbelieved::PolicyTwice(twice.plugin.clone())),
        None => Ok(()),
    }
}

fn check_entries(entries: &[ManifestEntry]) -> Result<(), Unbelieved> {
    let mut lengths = HashMap::new();
    let mut last: Option<&ContentKey> = None;
    for entry in entries {
        if last == Some(&entry.key) {
            return Err(Unbelieved::Twice(entry.key.clone()));
        }
        last = Some(&entry.key);
        if *lengths.entry(entry.sha256).or_insert(entry.size_bytes) != entry.size_bytes {
            return Err(Unbelieved::Lengths(entry.sha256));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Signer, entry, manifest, site};
    use super::*;

    fn catalog(signer: &Signer, manifest: &Manifest) -> Catalog {
        Catalog::verify(&signer.sign(manifest), &signer.public(), site()).expect("believed")
    }

    #[test]
    fn a_name_is_found_in_what_the_pinned_key_has_signed() {
        let signer = Signer::new(1);
        let manifest = manifest(
            7,
            vec![entry("images/a", b"aa"), entry("scripts/a", b"a"), entry("bootloaders/a", b"a")],
        );
        let catalog = catalog(&signer, &manifest);
        let found = catalog.entry(&"images/a".parse().expect("a name")).expect("it is there");
        assert_eq!((found.size_bytes, catalog.version()), (2, 7));
        assert_eq!(catalog.entry(&"images/b".parse().expect("a name")), None);
    }

    #[test]
    fn c12_what_another_key_signed_or_somebody_touched_is_not_even_read() {
        let (signer, other) = (Signer::new(1), Signer::new(2));
        let mut signed = other.sign(&manifest(7, vec![]));
        let refused = Catalog::verify(&signed, &signer.public(), site());
        assert!(matches!(refused, Err(Unbelieved::Unproven(_))), "{refused:?}");
        signed = signer.sign(&manifest(7, vec![]));
        signed.payload = "<html>".to_owned();
        let refused = Catalog::verify(&signed, &signer.public(), site());
        assert!(matches!(refused, Err(Unbelieved::Unproven(_))), "{refused:?}");
    }

    #[test]
    fn c12_another_sites_manifest_is_refused() {
        let signer = Signer::new(1);
        let elsewhere = SiteId::from_random([9; 16]);
        let signed = signer.sign(&Manifest { site_id: elsewhere, ..manifest(7, vec![]) });
        let refused = Catalog::verify(&signed, &signer.public(), site());
        assert_eq!(refused, Err(Unbelieved::OtherSite(elsewhere)));
    }

    #[test]
    fn c12_a_manifest_that_contradicts_itself_is_refused() {
        let signer = Signer::new(1);
        let verify = |entries| {
            Catalog::verify(&signer.sign(&manifest(7, entries)), &signer.public(), site())
        };
        let (a, b) = (entry("images/a", b"same"), entry("images/b", b"same"));
        assert!(verify(vec![a.clone(), b.clone()]).is_ok());
        assert!(matches!(verify(vec![a.clone(), a.clone()]), Err(Unbelieved::Twice(_))));
        let longer = ManifestEntry { size_bytes: 5, ..b };
        assert!(matches!(verify(vec![a, longer]), Err(Unbelieved::Lengths(_))));
    }

    #[test]
    fn c12_versions_never_go_back_and_one_version_says_one_thing() {
        let signer = Signer::new(1);
        let held = manifest(7, vec![entry("images/a", b"a")]);
        let later = Timestamp::from_unix_ms(held.issued_at.unix_ms() + 1);
        let earlier = Timestamp::from_unix_ms(held.issued_at.unix_ms() - 1);
        let other = vec![entry("images/a", b"b")];
        let follows = |offered: Manifest| {
            catalog(&signer, &offered).check_successor(Some(&catalog(&signer, &held)), None)
        };
        assert_eq!(follows(held.clone()), Ok(()));
        assert_eq!(follows(Manifest { issued_at: later, ..held.clone() }), Ok(()));
        assert_eq!(
            follows(Manifest { version: 8, entries: other.clone(), ..held.clone() }),
            Ok(())
        );
        let older = Unbelieved::Older { offered: 6, held: 7 };
        assert_eq!(follows(Manifest { version: 6, ..held.clone() }), Err(older));
        let rewritten = Manifest { entries: other, issued_at: later, ..held.clone() };
        assert_eq!(follows(rewritten), Err(Unbelieved::Rewritten(7)));
        let refused = follows(Manifest { issued_at: earlier, ..held.clone() });
        assert!(matches!(refused, Err(Unbelieved::Earlier { .. })), "{refused:?}");
        let longer = Manifest { expires_at: later, ..held.clone() };
        assert_eq!(follows(longer), Err(Unbelieved::Rewritten(7)));
    }

    #[test]
    fn c12_an_expired_manifest_is_refused_where_the_clock_can_be_trusted() {
        let signer = Signer::new(1);
        let catalog = catalog(&signer, &manifest(7, vec![]));
        let late = Timestamp::from_unix_ms(catalog.manifest.expires_at.unix_ms() + 1);
        let refused = catalog.check_successor(None, Some(late));
        assert_eq!(refused, Err(Unbelieved::Expired(catalog.manifest.expires_at)));
        assert_eq!(catalog.check_successor(None, None), Ok(()));
        assert!(catalog.is_expired(late));
    }
}
