//! Row filters.

use super::failed::{self, Call};
use super::{Live, Origin, debug_by_name};
use crate::bindings::filter::{RowFilterPlugin, RowFilterPluginPre};
use crate::error::{PluginError, one_line};
use crate::kind::Kind;
use crate::registry::PluginHost;
use crate::types::Verdict;

/// Characters of a reason that are kept.
const REASON: usize = 120;

/// A running row filter. It may compare a row with earlier ones, so one instance sees a dataset from its start.
pub struct Filter {
    live: Live<RowFilterPlugin>,
}

debug_by_name!(Filter);

impl PluginHost {
    /// A row filter.
    pub fn filter(&self, name: &str, config_json: &str) -> Result<Filter, PluginError> {
        Filter::new(self.origin(name, Kind::RowFilter, config_json)?)
    }
}

impl Filter {
    fn new(origin: Origin) -> Result<Self, PluginError> {
        let live = Live::start(
            origin,
            |store, pre| RowFilterPluginPre::new(pre)?.instantiate(store),
            |store, world, config| world.trainer_plugin_row_filter().filter().call_create(store, config),
        )?;
        Ok(Self { live })
    }

    /// Judges rows (JSON objects): one verdict a row, in order; a score is finite, a reason one short line.
    pub fn judge(&mut self, rows: &[String]) -> Result<Vec<Verdict>, PluginError> {
        self.judge_once(rows).map_err(|error| {
            let input = |item: usize| failed::row(&rows[item]);
            let origin = self.live.origin();
            let kind = Kind::RowFilter;
            let call = Call { origin, kind, input: &input, items: rows.len(), context: None };
            call.reduce(error, |origin, items| Self::new(origin)?.judge_once(&rows[items]).map(drop))
        })
    }

    fn judge_once(&mut self, rows: &[String]) -> Result<Vec<Verdict>, PluginError> {
        let mut verdicts = self
            .live
            .call(|store, world, handle| world.trainer_plugin_row_filter().filter().call_judge(store, handle, rows))?;
        let cell = &self.live.cell;
        if verdicts.len() != rows.len() {
            return Err(cell.bad_result(&format!("gave {} verdicts for {} rows", verdicts.len(), rows.len())));
        }
        if let Some(score) = verdicts.iter().filter_map(|verdict| verdict.score).find(|score| !score.is_finite()) {
            return Err(cell.bad_result(&format!("gave the score {score}; a score is a finite number")));
        }
        for reason in verdicts.iter_mut().filter_map(|verdict| verdict.reason.as_mut()) {
            *reason = one_line(reason, REASON);
        }
        cell.rows(rows.len());
        Ok(verdicts)
    }
}
