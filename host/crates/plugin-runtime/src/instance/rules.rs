//! Compatibility rules.

use super::{Live, Origin, debug_by_name};
use crate::bindings::rules::{CompatRulesPlugin, CompatRulesPluginPre};
use crate::error::{PluginError, cut};
use crate::kind::Kind;
use crate::registry::PluginHost;
use crate::types::{Facts, Finding, RuleInfo};

/// Characters of a message, a reason or a help.
const TEXT: usize = 8000;
/// Characters of a rule's id.
const ID: usize = 64;

/// A running set of compatibility rules.
pub struct Checker {
    live: Live<CompatRulesPlugin>,
}

debug_by_name!(Checker);

impl PluginHost {
    /// A set of compatibility rules.
    pub fn checker(&self, name: &str, config_json: &str) -> Result<Checker, PluginError> {
        Checker::new(self.origin(name, Kind::CompatRules, config_json)?)
    }
}

impl Checker {
    fn new(origin: Origin) -> Result<Self, PluginError> {
        let live = Live::start(
            origin,
            |store, pre| CompatRulesPluginPre::new(pre)?.instantiate(store),
            |store, world, config| world.trainer_plugin_compat_rules().checker().call_create(store, config),
        )?;
        Ok(Self { live })
    }

    /// The rules that it has.
    pub fn rules(&mut self) -> Result<Vec<RuleInfo>, PluginError> {
        self.live.call(|store, world, handle| {
            Ok(Ok(world.trainer_plugin_compat_rules().checker().call_rules(store, handle)?))
        })
    }

    /// What is wrong with a config. Texts are cut where no one would read on; edits are as they came.
    pub fn check(&mut self, facts: &Facts) -> Result<Vec<Finding>, PluginError> {
        let mut findings = self.live.call(|store, world, handle| {
            world.trainer_plugin_compat_rules().checker().call_check(store, handle, facts)
        })?;
        for finding in &mut findings {
            cut(&mut finding.rule, ID);
            for text in [&mut finding.message, &mut finding.why].into_iter().chain(&mut finding.help) {
                cut(text, TEXT);
            }
        }
        Ok(findings)
    }
}
