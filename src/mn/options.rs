//! What a capture is asked for: which parts, which classes, of which machine; and what of that makes no sense.

use crate::{
    error::{Error, Result},
    mn::{
        leftout::CLASSES,
        machine::Machine,
        profile::{Class, Profile},
    },
};
use std::{collections::BTreeSet, path::PathBuf};

/// The parts that no rule of a profile finds.
pub const FOUND_PARTS: [&str; 6] = ["database", "credentials", "named", "postscripts", "xcat-changes", "packages"];
/// What is captured, and how.
#[derive(Debug, Default)]
pub struct Options {
    /// The rules.
    pub profile: Profile,
    /// The host's own class too.
    pub include_host: bool,
    /// Only these parts, if any are named.
    pub only: BTreeSet<String>,
    /// Without these parts.
    pub skip: BTreeSet<String>,
    /// These paths too.
    pub also: Vec<Vec<u8>>,
    /// Classes of what is otherwise left out that are taken in.
    pub with: BTreeSet<String>,
    /// The tables eventlog and auditlog too.
    pub logs: bool,
    /// Find out how much every part is before anything is stored; what is stored finds it out by itself.
    pub measure: bool,
    /// Where digests of packaged files are remembered.
    pub cache: Option<PathBuf>,
}

/// Makes sure that there is a management node to be captured.
///
/// # Errors
/// `Usage` that says what is there instead, and what can be done.
pub fn require_node(machine: &Machine<'_>) -> Result<()> {
    let inside = &machine.inside;
    let base = inside.base().display();
    if inside.exists(b"/etc/xCATSN") {
        return Err(Error::Usage(format!(
            "{base} is an xCAT service node (/etc/xCATSN is there): capture its management node, or name what is to be \
             backed up: xsnap backup PATH"
        )));
    }
    if machine.is_live() {
        if !inside.exists(b"/etc/xCATMN") {
            return Err(Error::Usage(
                "no PATH was given, and this machine is no xCAT management node (/etc/xCATMN is not there): name what \
                 is to be backed up (xsnap backup PATH), or the mounted disk of a management node (--root DIR)"
                    .into(),
            ));
        }
    } else if !inside.exists(b"/etc/xcat/site.sqlite") && !inside.exists(b"/etc/xcat/cfgloc") {
        return Err(Error::Usage(format!(
            "{base} holds no xCAT management node: neither etc/xcat/site.sqlite nor etc/xcat/cfgloc is there. Is its disk \
             mounted, with all its file systems?"
        )));
    }
    Ok(())
}

/// Whether a part is to be taken.
pub fn is_chosen(options: &Options, name: &str) -> bool {
    (options.only.is_empty() || options.only.contains(name)) && !options.skip.contains(name)
}

/// Makes sure that all parts and classes that are named are known.
///
/// # Errors
/// `Usage` that names those that are.
pub fn require_known(options: &Options) -> Result<()> {
    let of_profile = options.profile.parts.iter().filter(|p| p.class != Class::Seen).map(|part| part.name.as_str());
    let known: BTreeSet<&str> = of_profile.chain(FOUND_PARTS).collect();
    if let Some(name) = options.only.iter().chain(&options.skip).find(|name| !known.contains(name.as_str())) {
        let known: Vec<&str> = known.into_iter().collect();
        return Err(Error::Usage(format!("there is no part {name}; the parts are: {}", known.join(", "))));
    }
    let of_rules = options.profile.out.iter().map(|rule| rule.class.as_str());
    let classes: BTreeSet<&str> = of_rules.chain(CLASSES).collect();
    if let Some(name) = options.with.iter().find(|name| !classes.contains(name.as_str())) {
        let classes: Vec<&str> = classes.into_iter().collect();
        return Err(Error::Usage(format!(
            "nothing of class {name} is left out; the classes are: {}",
            classes.join(", ")
        )));
    }
    Ok(())
}
