//! Mistakes that do not keep a file from being rendered, but its reader from understanding it.

use pureboot_protocol::TemplateKind;

/// What a person should look at in `text`, a rendered file of `kind`; none if it looks well.
pub fn warnings(kind: TemplateKind, text: &str) -> Vec<String> {
    let first = text.lines().next().unwrap_or_default();
    let begins = |words: &[&str]| words.iter().any(|word| first.starts_with(word));
    let has_line = |start: &str| text.lines().any(|line| line.starts_with(start));
    let mut found = Vec::new();
    let mut warn = |is_wrong: bool, text: &str| {
        if is_wrong {
            found.push(text.to_owned());
        }
    };
    match kind {
        TemplateKind::CloudInit => {
            let known = [
                "#cloud-config",
                "#!",
                "#include",
                "#cloud-boothook",
                "## template: jinja",
                "Content-Type:",
            ];
            warn(
                !begins(&known) && !has_line("instance-id:"),
                "cloud-init ignores user data whose first line is neither #cloud-config nor #!",
            );
        }
        TemplateKind::Autoinstall => {
            warn(
                !begins(&["#cloud-config"]),
                "the first line of autoinstall user data is #cloud-config",
            );
            warn(!has_line("autoinstall:"), "there is no autoinstall: at the beginning of a line");
        }
        TemplateKind::Kickstart => {
            let sections =
                ["%packages", "%pre", "%post", "%addon", "%onerror", "%traceback", "%certificate"];
            let opened = text
                .lines()
                .filter(|line| sections.iter().any(|name| line.starts_with(name)))
                .count();
            let closed = text.lines().filter(|line| line.trim_end() == "%end").count();
            warn(opened != closed, "each %section of a kickstart file ends with a line %end");
        }
        TemplateKind::Preseed => {
            warn(
                !has_line("d-i "),
                "a preseed file answers questions in lines that begin with d-i",
            );
        }
        TemplateKind::Script => {
            warn(!begins(&["#!"]), "the first line of a script is #! and its interpreter");
        }
    }
    let is_yaml = matches!(kind, TemplateKind::CloudInit | TemplateKind::Autoinstall);
    let has_tab = text.lines().any(|line| line.trim_start_matches(' ').starts_with('\t'));
    warn(
        is_yaml && !first.starts_with("#!") && has_tab,
        "YAML is indented with spaces, and there is a tab",
    );
    warn(
        text.contains('\r'),
        "lines end with a carriage return, which shells and installers take for a character",
    );
    found
}
