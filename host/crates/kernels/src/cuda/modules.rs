//! This trainer's kernels by source, compiled and loaded.

use super::compile::{Compiler, Source};
use super::driver::{Context, Function};
use crate::{AttentionShape, DeviceError, Precision};

/// A source with its kernels, by name.
macro_rules! kernels {
    ($(#[$documentation:meta])* $table:ident of $file:literal: $($kernel:ident),*) => {
        $(#[$documentation])*
        #[derive(Debug, Clone, Copy)]
        #[allow(clippy::struct_field_names, reason = "kernels are named in their sources")]
        pub(super) struct $table {
            $(pub(super) $kernel: Function,)*
        }

        impl $table {
            const SOURCE: Source = Source {
                name: $file,
                text: include_str!(concat!("source/", $file)),
                kernels: &[$(stringify!($kernel)),*],
            };

            pub(super) fn load(device: &Loader<'_>, defines: &[String]) -> Result<Self, DeviceError> {
                let [$($kernel),*] = device.load(&Self::SOURCE, defines)?;
                Ok(Self { $($kernel),* })
            }
        }
    };
}

kernels! {
    /// Norms.
    Norm of "norm.cu": rmsnorm, rmsnorm_again, rmsnorm_backward, rmsnorm_weight_gradient
}
kernels! {
    /// Lengths of rows, and columns scaled by them.
    Direction of "direction.cu": row_norms, add_scaled, add_scaled_backward
}
kernels! {
    /// Loops over rows and elements.
    Elementwise of "elementwise.cu":
        rope, glu, glu_backward, xielu, xielu_backward, scale, copy_columns, dropout, noise, gather_rows,
        scatter_rows
}
kernels! {
    /// The embedding.
    Embedding of "embedding.cu": embed, embed_backward, embed_backward_finish
}
kernels! {
    /// Packed weights.
    Unpack of "packed.cu": unpack_4bit, unpack_8bit
}
kernels! {
    /// Losses.
    Loss of "cross_entropy.cu": cross_entropy, add_loss
}
kernels! {
    /// Gradient norm, clipping, AdamW.
    Optimizer of "optimizer.cu": sum_of_squares, sum_of_squares_finish, clip, adamw
}
kernels! {
    /// Attention, for one shape of heads.
    Attention of "attention.cu":
        attention, attention_delta, attention_backward_keys, attention_backward_queries, append, attention_cached
}

/// Every source, with the definitions that it is compiled with for a model of some shape.
#[cfg(test)]
pub(super) fn sources(precision: Precision, shape: AttentionShape) -> Vec<(Source, Vec<String>)> {
    let common = precision_defines(precision);
    let attention = attention_defines(precision, shape);
    let plain = [
        Norm::SOURCE,
        Direction::SOURCE,
        Elementwise::SOURCE,
        Embedding::SOURCE,
        Unpack::SOURCE,
        Loss::SOURCE,
        Optimizer::SOURCE,
    ];
    let mut sources: Vec<_> = plain.into_iter().map(|source| (source, common.clone())).collect();
    sources.push((Attention::SOURCE, attention));
    sources
}

pub(super) fn precision_defines(precision: Precision) -> Vec<String> {
    if precision == Precision::Bf16 { vec!["-DREAL_BF16".into()] } else { Vec::new() }
}

pub(super) fn attention_defines(precision: Precision, shape: AttentionShape) -> Vec<String> {
    let AttentionShape { heads, kv_heads, head_dim, cap, .. } = shape;
    let mut defines = precision_defines(precision);
    defines
        .extend([("HEAD_DIM", head_dim), ("HEADS", heads), ("KV_HEADS", kv_heads)].map(|(n, v)| format!("-D{n}={v}")));
    defines.extend(cap.map(|cap| format!("-DSCORE_CAP={cap:?}f")));
    defines
}

/// Compiles and loads sources.
pub(super) struct Loader<'a> {
    pub(super) context: &'a Context,
    pub(super) compiler: Compiler<'a>,
}

impl Loader<'_> {
    fn load<const N: usize>(&self, source: &Source, defines: &[String]) -> Result<[Function; N], DeviceError> {
        let image = self.compiler.compile(source, self.context.capability, defines)?;
        let functions = self.context.module(&image, source.kernels)?;
        Ok(functions.try_into().expect("as many functions as names"))
    }
}
