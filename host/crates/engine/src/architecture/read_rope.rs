//! Rotary settings of a `config.json`, in the spelling of transformers 4 (`rope_theta`, `rope_scaling`) and of transformers 5
//! (`rope_parameters`).

use serde_json::{Map, Value};

use super::config::{ConfigError, ModelConfig};
use super::read::Reader;
use super::rope::{Rope, RopeScaling, yarn_attention_factor};

/// One table of rotary settings.
#[derive(Debug)]
struct Table<'a> {
    read: &'a Reader<'a>,
    keys: &'a Map<String, Value>,
    kind: &'a str,
}

/// What a family's class does beside the table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outside<'a> {
    /// The base where the table has none.
    pub(super) theta: Option<&'a Value>,
    /// The base where there is none at all.
    pub(super) default_theta: f64,
    /// Of the class: what the model was first trained with, where it does not say.
    pub(super) original_positions: Option<usize>,
    /// The share of a head that is rotated where a file does not say; none where all of a head is, whatever it says.
    pub(super) share: Option<f64>,
}

impl<'a> Outside<'a> {
    /// Of a class that has a base and nothing else beside the table.
    pub(super) fn new(theta: Option<&'a Value>, default_theta: f64) -> Self {
        Self { theta, default_theta, original_positions: None, share: None }
    }
}

impl Reader<'_> {
    /// The table of this key; none where it is empty.
    pub(super) fn rope_table(&self, key: &str) -> Result<Option<&Map<String, Value>>, ConfigError> {
        match self.raw.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(table)) => Ok(Some(table).filter(|table| !table.is_empty())),
            Some(other) => Err(self.invalid(format!("`{key}` is {other}, not an object"))),
        }
    }

    /// The one table of a model whose layers rotate alike. Of two tables `rope_scaling` wins, unless it is empty, as in
    /// `convert_rope_params_to_dict` of transformers 5.
    pub(super) fn given_table(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.rope_table("rope_scaling")?.or(self.rope_table("rope_parameters")?).cloned().unwrap_or_default())
    }

    /// The same of a class that has a table of its own where the file has none.
    pub(super) fn table_or(&self, of_class: Value) -> Result<Map<String, Value>, ConfigError> {
        let given = self.given_table()?;
        let is_absent = given.is_empty() && self.raw_value("rope_parameters").is_none_or(Value::is_null);
        Ok(match of_class {
            Value::Object(own) if is_absent => own,
            _ => given,
        })
    }

    /// The tables of a model whose full and sliding layers rotate differently, in this order. `rope_parameters` has one for
    /// each, and `rope_scaling` goes into that of the full layers.
    pub(super) fn ropes_by_layer_type(
        &self,
        config: &ModelConfig,
        full: Outside<'_>,
        sliding: Outside<'_>,
    ) -> Result<Vec<Rope>, ConfigError> {
        let own = |kind: &str| match self.rope_table("rope_parameters")?.and_then(|tables| tables.get(kind)) {
            None | Some(Value::Null) => Ok(Map::new()),
            Some(Value::Object(table)) => Ok(table.clone()),
            Some(other) => Err(self.invalid(format!("`rope_parameters.{kind}` is {other}, not an object"))),
        };
        let mut table = own("full_attention")?;
        table.extend(self.rope_table("rope_scaling")?.cloned().unwrap_or_default());
        Ok(vec![self.rope(&table, config, full)?, self.rope(&own("sliding_attention")?, config, sliding)?])
    }

    /// The rotary settings of a table.
    pub(super) fn rope(
        &self,
        table: &Map<String, Value>,
        config: &ModelConfig,
        outside: Outside<'_>,
    ) -> Result<Rope, ConfigError> {
        // Null is not the default: transformers has no base then, and fails.
        let theta = match table.get("rope_theta").or(outside.theta) {
            None => outside.default_theta,
            Some(theta) => theta
                .as_f64()
                .filter(|theta| theta.is_finite() && *theta > 0.0)
                .ok_or_else(|| self.invalid(format!("`rope_theta` is {theta}, not a number above 0")))?,
        };
        let rotary_dim = self.rotary_dim(table, config.head_dim, outside.share)?;
        let kind = match table.get("rope_type").or_else(|| table.get("type")) {
            None => "default",
            Some(Value::String(kind)) => kind.as_str(),
            Some(other) => return Err(self.invalid(format!("`rope_type` is {other}, not a text"))),
        };
        let table = Table { read: self, keys: table, kind };
        let positions = config.max_position_embeddings;
        let scaling = match kind {
            "default" => None,
            "linear" => Some(RopeScaling::Linear { factor: table.need("factor")? }),
            "dynamic" => {
                table.need("factor")?;
                Some(RopeScaling::Dynamic)
            }
            "llama3" => Some(table.llama3(positions)?),
            "yarn" if theta <= 1.0 => {
                return Err(self.invalid(format!("rotary scaling `yarn` needs `rope_theta` above 1, it is {theta}")));
            }
            "yarn" => Some(table.yarn(positions)?),
            "longrope" => Some(table.longrope(positions, outside.original_positions, rotary_dim)?),
            other => {
                let known = "default, linear, dynamic, llama3, yarn and longrope are supported";
                return Err(self.unsupported(format!("rope_type: {other}"), known));
            }
        };
        Ok(Rope { theta, rotary_dim, scaling, is_interleaved: false, growth: None })
    }

    /// Elements of a head that are rotated.
    fn rotary_dim(
        &self,
        table: &Map<String, Value>,
        head_dim: usize,
        of_class: Option<f64>,
    ) -> Result<usize, ConfigError> {
        let key = "partial_rotary_factor";
        let factor = match table.get(key).or_else(|| self.raw.get(key)) {
            None => of_class.unwrap_or(1.0),
            Some(Value::Null) => 1.0,
            Some(share) => {
                let factor = share.as_f64().filter(|factor| *factor > 0.0 && *factor <= 1.0);
                factor.ok_or_else(|| self.invalid(format!("`{key}` is {share}, not a share of a head")))?
            }
        };
        let rotary_dim = (head_dim as f64 * factor) as usize;
        if rotary_dim < head_dim && of_class.is_none() {
            return Err(self.unsupported(format!("{key}: {factor}"), "all of a head is rotated in such models"));
        }
        if rotary_dim == 0 || !rotary_dim.is_multiple_of(2) {
            return Err(self.invalid(format!("`{key}` {factor} of a head of {head_dim} has no halves to rotate")));
        }
        Ok(rotary_dim)
    }
}

impl Table<'_> {
    fn positive(&self, key: &str, value: &Value) -> Result<f64, ConfigError> {
        let number = value.as_f64().filter(|number| number.is_finite() && *number > 0.0);
        number.ok_or_else(|| {
            let kind = self.kind;
            self.read.invalid(format!("rotary scaling `{kind}` needs `{key}` above 0, it is {value}"))
        })
    }

    fn need(&self, key: &str) -> Result<f64, ConfigError> {
        match self.keys.get(key) {
            Some(value) => self.positive(key, value),
            None => Err(self.read.invalid(format!("rotary scaling `{}` needs `{key}` above 0", self.kind))),
        }
    }

    fn optional(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        self.keys.get(key).filter(|value| !value.is_null()).map(|value| self.positive(key, value)).transpose()
    }

    /// `standardize_rope_params` of transformers 5: what stands outside of the table wins, and the model's context is what
    /// fills it in.
    fn original(&self, positions: usize) -> Result<f64, ConfigError> {
        let key = "original_max_position_embeddings";
        let given = self.read.raw.get(key).or_else(|| self.keys.get(key));
        given.map_or(Ok(positions as f64), |value| self.positive(key, value))
    }

    fn llama3(&self, positions: usize) -> Result<RopeScaling, ConfigError> {
        let (low_freq_factor, high_freq_factor) = (self.need("low_freq_factor")?, self.need("high_freq_factor")?);
        if high_freq_factor <= low_freq_factor {
            return Err(self.read.invalid(format!(
                "`high_freq_factor` {high_freq_factor} is not above `low_freq_factor` {low_freq_factor}"
            )));
        }
        Ok(RopeScaling::Llama3 {
            factor: self.need("factor")?,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings: self.original(positions)?,
        })
    }

    fn yarn(&self, positions: usize) -> Result<RopeScaling, ConfigError> {
        let original_max_position_embeddings = self.original(positions)?;
        // Null is the ratio of the contexts.
        let factor = match self.keys.get("factor") {
            Some(Value::Null) => positions as f64 / original_max_position_embeddings,
            _ => self.need("factor")?,
        };
        let attention_factor = match self.optional("attention_factor")? {
            Some(factor) => factor,
            None => yarn_attention_factor(factor, self.optional("mscale")?, self.optional("mscale_all_dim")?),
        };
        let truncate = match self.keys.get("truncate") {
            None => true,
            Some(value) => {
                value.as_bool().ok_or_else(|| self.read.invalid(format!("`truncate` is {value}, not true or false")))?
            }
        };
        Ok(RopeScaling::Yarn {
            factor,
            attention_factor,
            beta_fast: self.optional("beta_fast")?.unwrap_or(32.0),
            beta_slow: self.optional("beta_slow")?.unwrap_or(1.0),
            truncate,
            original_max_position_embeddings,
        })
    }

    fn longrope(
        &self,
        positions: usize,
        of_class: Option<usize>,
        rotary_dim: usize,
    ) -> Result<RopeScaling, ConfigError> {
        let original = match (of_class, self.read.raw.get("original_max_position_embeddings")) {
            (Some(of_class), None) => of_class as f64,
            _ => self.original(positions)?,
        };
        let factors = |key: &str| -> Result<Vec<f32>, ConfigError> {
            let half = rotary_dim / 2;
            let list = self.keys.get(key).and_then(Value::as_array).filter(|list| list.len() == half);
            let list = list.ok_or_else(|| {
                self.read.invalid(format!("rotary scaling `longrope` needs `{key}`, a list of {half} numbers"))
            })?;
            list.iter().map(|value| Ok(self.positive(key, value)? as f32)).collect()
        };
        let factor = self.optional("factor")?.unwrap_or(positions as f64 / original);
        let attention_factor = match self.optional("attention_factor")? {
            Some(factor) => factor,
            None if factor <= 1.0 => 1.0,
            None => (1.0 + factor.ln() / original.ln()).sqrt(),
        };
        if !attention_factor.is_finite() {
            return Err(self.read.invalid(format!("rotary scaling `longrope` cannot stretch {original} positions")));
        }
        Ok(RopeScaling::LongRope {
            short_factor: factors("short_factor")?,
            long_factor: factors("long_factor")?,
            attention_factor,
            original_max_position_embeddings: original,
        })
    }
}
