//! The key that the controller signs with: a file of its own, so that a database that leaks signs nothing (FAULTS A12).

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, bail};
use pureboot_protocol::{ContentHash, Nonce, PublicKey, Sealed, SheetAnswer, Signature, Signed};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};

/// Longer than any key file, in bytes.
const FILE_LEN_MAX: u64 = 4_096;

/// Signs what agents believe.
#[derive(Debug)]
pub(crate) struct Signer {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl Signer {
    /// A new key, as the text of its file: PKCS #8 (RFC 8410) in hexadecimal.
    fn generate() -> anyhow::Result<String> {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
        let pkcs8 = pkcs8.map_err(|_| anyhow::anyhow!("the system has no random numbers"))?;
        Ok(pkcs8.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let byte = |pair: &[u8]| {
            let digits = std::str::from_utf8(pair).ok()?;
            u8::from_str_radix(digits, 16).ok()
        };
        let pkcs8: Option<Vec<u8>> = text.trim().as_bytes().chunks(2).map(byte).collect();
        let pair = pkcs8.and_then(|pkcs8| Ed25519KeyPair::from_pkcs8(&pkcs8).ok());
        let pair = pair.context("it does not hold an Ed25519 key as this program writes one")?;
        let public = <[u8; 32]>::try_from(pair.public_key().as_ref())
            .context("an Ed25519 public key has 32 bytes")?;
        Ok(Self { pair, public: PublicKey::from_bytes(public) })
    }

    /// The key in `path`; none if there is no such file.
    ///
    /// # Errors
    /// Others can read it, or it holds no key.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Option<Self>> {
        let metadata = match path.symlink_metadata() {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            metadata => metadata.with_context(|| format!("cannot look at {}", path.display()))?,
        };
        if !metadata.is_file() {
            bail!("{} is not a regular file; move it away", path.display());
        }
        if metadata.permissions().mode() & 0o077 != 0 {
            bail!("{0} can be read by others; `chmod 600 {0}`", path.display());
        }
        let mut text = String::new();
        File::open(path)
            .and_then(|file| file.take(FILE_LEN_MAX).read_to_string(&mut text))
            .with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text)
            .map(Some)
            .with_context(|| format!("cannot use {}; restore it from a backup", path.display()))
    }

    /// Makes a key and puts it into `path`, whole or not at all, and never readable by others.
    ///
    /// # Errors
    /// It cannot be kept.
    pub(crate) fn make(path: &Path) -> anyhow::Result<Self> {
        let text = Self::generate()?;
        let new = path.with_added_extension("new");
        let write = || -> io::Result<()> {
            match std::fs::remove_file(&new) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
            writeln!(file, "{text}")?;
            file.sync_all()?;
            std::fs::rename(&new, path)?;
            let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
            File::open(dir.unwrap_or(Path::new(".")))?.sync_all()
        };
        write().with_context(|| format!("cannot keep the signing key in {}", path.display()))?;
        Self::parse(&text)
    }

    /// The half that agents keep.
    pub(crate) fn public(&self) -> PublicKey {
        self.public
    }

    /// Puts a text that is a `T` into its envelope.
    pub(crate) fn sign<T: Sealed>(&self, payload: String) -> Signed<T> {
        let signature = self.signature(&Signed::<T>::signed_bytes(&payload));
        Signed::new(payload, signature, &self.public)
    }

    /// Signs the digest of a node's answer sheet for the one question that has `nonce`.
    pub(crate) fn sign_sheet(&self, nonce: &Nonce, digest: &ContentHash) -> Signature {
        self.signature(&SheetAnswer::signed_bytes(nonce, digest))
    }

    /// Signs the package of a policy, whose first bytes are its domain.
    pub(crate) fn sign_package(&self, bytes: &[u8]) -> Signature {
        self.signature(bytes)
    }

    fn signature(&self, bytes: &[u8]) -> Signature {
        let signature = <[u8; 64]>::try_from(self.pair.sign(bytes).as_ref())
            .expect("an Ed25519 signature has 64 bytes (RFC 8032 §5.1.6)");
        Signature::from_bytes(signature)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use pureboot_protocol::{SignedManifest, SignedRecords};
    use ring::signature::{ED25519, UnparsedPublicKey};

    use super::*;

    fn verifies(key: &PublicKey, signed: &SignedManifest) -> bool {
        UnparsedPublicKey::new(&ED25519, key.as_bytes())
            .verify(&SignedManifest::signed_bytes(&signed.payload), signed.signature.as_bytes())
            .is_ok()
    }

    fn signer() -> Signer {
        Signer::parse(&Signer::generate().expect("a key")).expect("a key")
    }

    proptest! {
        #[test]
        fn a_manifest_verifies_if_and_only_if_nobody_has_touched_it(
            payload in "[ -~]{1,200}", at in any::<prop::sample::Index>(), flip in 1..128_u8, in_signature: bool,
        ) {
            let signer = signer();
            let signed = signer.sign(payload);
            prop_assert!(verifies(&signer.public(), &signed));
            prop_assert!(!verifies(&self::signer().public(), &signed));
            let mut touched = signed.clone();
            if in_signature {
                let mut bytes = *signed.signature.as_bytes();
                bytes[at.index(64)] ^= flip;
                touched.signature = Signature::from_bytes(bytes);
            } else {
                let mut bytes = signed.payload.clone().into_bytes();
                let at = at.index(bytes.len());
                bytes[at] ^= flip;
                touched.payload = String::from_utf8(bytes).expect("ASCII stays ASCII");
            }
            prop_assert!(!verifies(&signer.public(), &touched));
        }
    }

    #[test]
    fn a_signature_of_the_payload_alone_is_none_of_a_manifest() {
        let signer = signer();
        let mut signed = signer.sign("{}".to_owned());
        let bare = signer.pair.sign(b"{}");
        signed.signature = Signature::from_bytes(bare.as_ref().try_into().expect("64 bytes"));
        assert!(!verifies(&signer.public(), &signed));
    }

    #[test]
    fn a_signature_of_one_kind_is_none_of_another() {
        let signer = signer();
        let records: SignedRecords = signer.sign("{}".to_owned());
        let manifest = SignedManifest::new("{}".to_owned(), records.signature, &signer.public());
        assert!(!verifies(&signer.public(), &manifest));
    }

    #[test]
    fn a11_a_key_is_the_owners_alone_and_read_back_as_it_was_made() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("signing-key");
        assert!(Signer::load(&path).expect("nothing is wrong").is_none());
        let made = Signer::make(&path).expect("made");
        assert_eq!(path.metadata().expect("a file").permissions().mode() & 0o777, 0o600);
        let loaded = Signer::load(&path).expect("readable").expect("there");
        assert_eq!(loaded.public(), made.public());
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).expect("opened");
        let error = Signer::load(&path).expect_err("refused");
        assert!(error.to_string().contains("chmod 600"), "{error}");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("closed");
        std::fs::write(&path, "rubbish").expect("damaged");
        let error = format!("{:#}", Signer::load(&path).expect_err("refused"));
        assert!(error.contains("restore it from a backup"), "{error}");
    }
}
