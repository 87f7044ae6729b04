//! `pureboot-agent answers …`

use std::fmt::Write as _;
use std::process::ExitCode;

use argh::FromArgs;
use pureboot_protocol::{FileName, Mac, Page, Success};

use super::json;
use crate::answers::manage::{FileView, Rendered, SheetView};
use crate::cli::arguments::asks;
use crate::data_dir::DataDir;
use crate::manage::client::ask;
use crate::session::render::printable;

const ANSWERS: &str = "/api/v1/agent/answers";

/// show which answer files machines get from this agent, and what is in them; secrets are never shown
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "answers")]
pub(super) struct Answers {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
enum Command {
    Ls(Ls),
    Show(Show),
}

asks! {
    /// list the answer files that are kept, by machine
    #[argh(subcommand, name = "ls")]
    struct Ls {}
}

asks! {
    /// print a file as the machine would get it, with ******** in the place of each secret; remarks go to standard error
    #[argh(subcommand, name = "show")]
    struct Show {
        /// the machine
        #[argh(positional)]
        mac: Mac,
        /// the file, such as user-data or preseed.cfg
        #[argh(positional)]
        file: FileName,
    }
}

impl Answers {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Ls(ls) => ls.run(),
            Command::Show(show) => show.run(),
        }
    }
}

impl Ls {
    fn run(self) -> anyhow::Result<ExitCode> {
        let page: Page<SheetView> = ask(&DataDir::open(&self.data_dir)?.socket(), ANSWERS)?;
        if self.json {
            return super::print(&json::pretty(&page.data)?);
        }
        super::print(&table(&page.data))
    }
}

impl Show {
    fn run(self) -> anyhow::Result<ExitCode> {
        let path = format!("{ANSWERS}/{}/{}", self.mac, self.file.as_str());
        let answer: Success<Rendered> = ask(&DataDir::open(&self.data_dir)?.socket(), &path)?;
        if self.json {
            return super::print(&json::pretty(&answer.data)?);
        }
        for warning in &answer.data.warnings {
            super::complain(warning);
        }
        super::print(&answer.data.text)
    }
}

/// The files, a line each.
fn table(sheets: &[SheetView]) -> String {
    if sheets.iter().all(|sheet| sheet.files.is_empty()) {
        return "no answer files are kept: no machine of this site waits for an installation that has any\n"
            .to_owned();
    }
    let mut text = format!(
        "{:<17}  {:<20}  {:<20}  {:<11}  {:<24}  secrets\n",
        "machine", "name", "file", "kind", "template"
    );
    for sheet in sheets {
        for FileView { name, kind, template, version, secrets } in &sheet.files {
            let template = format!("{} v{version}", printable(template));
            let hostname = printable(sheet.hostname.as_deref().unwrap_or("-"));
            let secrets = match (secrets.as_slice(), sheet.has_secrets) {
                ([], _) => "none".to_owned(),
                (names, true) => names.join(", "),
                (names, false) => format!("{} (let go)", names.join(", ")),
            };
            _ = writeln!(
                text,
                "{:<17}  {hostname:<20}  {:<20}  {kind:<11}  {template:<24}  {secrets}",
                sheet.mac.to_string(),
                name.as_str()
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use pureboot_protocol::{TemplateKind, Timestamp};

    use super::*;

    #[test]
    fn a_person_reads_which_files_there_are() {
        assert!(table(&[]).starts_with("no answer files are kept"));
        let file = |name: &str, kind, secrets: &[&str]| FileView {
            name: name.parse().expect("a name"),
            kind,
            template: "debian\x1b".to_owned(),
            version: 3,
            secrets: secrets.iter().map(|name| (*name).to_owned()).collect(),
        };
        let sheet = |number: u8, has_secrets| SheetView {
            mac: Mac::from_bytes([0x52, 0x54, 0, 0, 0, number]).expect("unicast"),
            hostname: (number == 1).then(|| "web-1".to_owned()),
            asked_at: Timestamp::from_unix_ms(0),
            has_secrets,
            granted_to: None,
            files: vec![
                file("preseed.cfg", TemplateKind::Preseed, &["root", "wifi"]),
                file("late.sh", TemplateKind::Script, &[]),
            ],
        };
        expect![[r#"
            machine            name                  file                  kind         template                  secrets
            52:54:00:00:00:01  web-1                 preseed.cfg           preseed      debian? v3                root, wifi
            52:54:00:00:00:01  web-1                 late.sh               script       debian? v3                none
            52:54:00:00:00:02  -                     preseed.cfg           preseed      debian? v3                root, wifi (let go)
            52:54:00:00:00:02  -                     late.sh               script       debian? v3                none
        "#]]
        .assert_eq(&table(&[sheet(1, true), sheet(2, false)]));
    }
}
