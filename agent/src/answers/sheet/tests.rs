use pureboot_protocol::{AnswerValue, Secret, Signature, TemplateKind};
use ring::signature::{Ed25519KeyPair, KeyPair};

use super::*;

const FILE: &str = "answers";

/// A sheet with one file that is made of `templates`, the first of which is its own, and that names `secrets`.
pub(in crate::answers) fn sheet(
    kind: TemplateKind,
    templates: &[(&str, &str)],
    secrets: &[&str],
) -> AnswerSheet {
    let texts: BTreeMap<_, _> =
        templates.iter().map(|(name, body)| ((*name).to_owned(), hash(body))).collect();
    let file = AnswerFile {
        template_id: TemplateId::from_random([5; 16]),
        version: 1,
        kind,
        template: templates.first().map(|(name, _)| (*name).to_owned()).unwrap_or_default(),
        texts,
        secrets: secrets.iter().map(|name| (*name).to_owned()).collect(),
    };
    let hostname = ("hostname".to_owned(), AnswerValue::Text("web-1".to_owned()));
    let secret = |name: &&str| ((*name).to_owned(), Secret::new(format!("the {name} secret")));
    AnswerSheet {
        site_id: SiteId::from_random([1; 16]),
        node_id: NodeId::from_random([2; 16]),
        mac_address: "52:54:00:00:00:01".parse().expect("an address"),
        workflow_id: None,
        files: BTreeMap::from([(FILE.parse().expect("a name"), file)]),
        values: BTreeMap::from([("node".to_owned(), BTreeMap::from([hostname]))]),
        secrets: secrets.iter().map(secret).collect(),
    }
}

/// The texts of `templates`.
pub(in crate::answers) fn texts(templates: &[(&str, &str)]) -> Texts {
    templates.iter().map(|(_, body)| (hash(body), (*body).to_owned())).collect()
}

fn subject(sheet: &AnswerSheet) -> Subject {
    Subject { site: sheet.site_id, node: sheet.node_id, mac: sheet.mac_address }
}

struct Signer(Ed25519KeyPair);

impl Signer {
    fn new(seed: u8) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("32 bytes are a seed"))
    }

    fn key(&self) -> PublicKey {
        PublicKey::from_bytes(self.0.public_key().as_ref().try_into().expect("32 bytes"))
    }

    fn answer(&self, nonce: &Nonce, payload: &str) -> SheetAnswer {
        let digest = hash(payload);
        let signature = self.0.sign(&SheetAnswer::signed_bytes(nonce, &digest));
        SheetAnswer {
            digest,
            signature: Signature::from_bytes(signature.as_ref().try_into().expect("64 bytes")),
            key_id: self.key().id(),
            payload: Some(payload.to_owned()),
            texts: Vec::new(),
        }
    }
}

fn nonce(byte: u8) -> Nonce {
    Nonce::from_random([byte; 16])
}

#[test]
fn a_sheet_is_believed_that_was_signed_for_this_question_and_is_about_this_node() {
    let (signer, sheet) = (Signer::new(1), sheet(TemplateKind::Script, &[("t", "x")], &[]));
    let payload = serde_json::to_string(&sheet).expect("JSON");
    let answer = signer.answer(&nonce(1), &payload);
    let key = signer.key();
    let said = believe(&answer, &nonce(1), &key, subject(&sheet), None);
    assert_eq!(said, Ok(Said::Sheet(Box::new(sheet.clone()))));
    let signature = Err(Unbelieved::Signature { pinned: key.id() });
    let replayed = believe(&answer, &nonce(2), &key, subject(&sheet), None);
    assert_eq!(replayed, signature, "an answer is good for one question");
    let strange = Signer::new(2).answer(&nonce(1), &payload);
    assert_eq!(believe(&strange, &nonce(1), &key, subject(&sheet), None), signature);
    let other = Subject { node: NodeId::from_random([9; 16]), ..subject(&sheet) };
    let said = believe(&answer, &nonce(1), &key, other, None);
    assert_eq!(said, Err(Unbelieved::Other(sheet.node_id)));
    let mut touched = answer;
    touched.payload = Some(payload.replace("web-1", "web-2"));
    assert_eq!(believe(&touched, &nonce(1), &key, subject(&sheet), None), Err(Unbelieved::Digest));
}

#[test]
fn that_nothing_has_changed_is_believed_of_the_sheet_that_is_held() {
    let (signer, sheet) = (Signer::new(1), sheet(TemplateKind::Script, &[("t", "x")], &[]));
    let mut answer = signer.answer(&nonce(1), "{}");
    answer.payload = None;
    let said = |held| believe(&answer, &nonce(1), &signer.key(), subject(&sheet), held);
    assert_eq!(said(Some(hash("{}"))), Ok(Said::Unchanged));
    assert_eq!(said(Some(hash("other"))), Err(Unbelieved::Absent));
    assert_eq!(said(None), Err(Unbelieved::Absent));
}

#[test]
fn h23_a_sheet_that_cannot_be_read_is_refused_without_a_word_of_it() {
    let signer = Signer::new(1);
    let sheet = sheet(TemplateKind::Script, &[("t", "x")], &["root"]);
    let payload = serde_json::to_string(&sheet).expect("JSON");
    let payload = payload.replace(r#"{"root":"the root secret"}"#, r#""the root secret""#);
    let answer = signer.answer(&nonce(1), &payload);
    let refused = believe(&answer, &nonce(1), &signer.key(), subject(&sheet), None);
    let text = refused.expect_err("secrets are a map").to_string();
    assert!(text.contains("does not fit") && !text.contains("the root"), "{text}");
}

#[test]
fn u8_a_file_is_taken_that_can_be_made_and_no_other() {
    let made_of: &[(&str, &str)] =
        &[("t", "{% include 'part' %}"), ("part", "{{ node.hostname }}")];
    let check_texts = |sheet: &AnswerSheet, had: &[(&str, &str)]| {
        check(sheet, &texts(had)).map_err(|error| error.to_string())
    };
    let sound = sheet(TemplateKind::Script, made_of, &[]);
    assert_eq!(check_texts(&sound, made_of), Ok(()));
    let missing = check_texts(&sound, &made_of[..1]).expect_err("a text is missing");
    assert!(missing.contains("did not come"), "{missing}");
    for (body, expected) in [
        ("{% if %}", "answers: 't' line 1, column 7: syntax error"),
        ("{% include 'nowhere' %}", "there is no template 'nowhere' to include"),
        ("{% include 't' %}", "that has no end"),
    ] {
        let broken: &[_] = &[("t", body)];
        let told = check_texts(&sheet(TemplateKind::Script, broken, &[]), broken);
        let told = told.expect_err("it does not compile");
        assert!(told.contains(expected), "{body}: {told}");
    }
    let long = "x".repeat(BODY_LEN_MAX + 1);
    assert_eq!(name_texts(vec![long]), Err(Unbelieved::Long(BODY_LEN_MAX + 1)));
}

#[test]
fn a_sheet_of_another_workflow_lacks_files() {
    let sheet = sheet(TemplateKind::Script, &[("t", "x")], &[]);
    let name: FileName = FILE.parse().expect("a name");
    let workflow =
        |name: &FileName, id| BTreeMap::from([(name.clone(), TemplateId::from_random(id))]);
    assert_eq!(lacks(&sheet, &workflow(&name, [5; 16])), None);
    assert_eq!(lacks(&sheet, &workflow(&name, [6; 16])), Some(&name));
    let other = "ks.cfg".parse().expect("a name");
    assert_eq!(lacks(&sheet, &workflow(&other, [5; 16])), Some(&other));
    assert_eq!(lacks(&sheet, &BTreeMap::new()), None);
}
