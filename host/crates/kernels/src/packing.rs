//! Weights in four or eight bits, as bitsandbytes packs them: what codes stand for, and where a matrix lies.

/// How weights are packed, as bitsandbytes does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Packing {
    /// Four bits: the quantiles of a normal distribution (Dettmers et al., "QLoRA").
    Nf4,
    /// Four bits: a sign, two bits of exponent, one of fraction.
    Fp4,
    /// Eight bits, linear from the largest of a row to its negative (Dettmers et al., "LLM.int8()").
    Int8,
}

impl Packing {
    /// Elements that share a scale, of four bits; of [`Self::Int8`] a row does.
    pub const BLOCK: usize = 64;
    /// Scales that share a scale of their own where they are packed too.
    pub const NESTED_BLOCK: usize = 256;

    /// Words of 32 bits that `elements` take.
    pub fn words(self, elements: usize) -> usize {
        match self {
            Self::Nf4 | Self::Fp4 => elements.div_ceil(8),
            Self::Int8 => elements.div_ceil(4),
        }
    }

    /// Scales of a matrix.
    pub fn scales(self, rows: usize, columns: usize) -> usize {
        match self {
            Self::Nf4 | Self::Fp4 => (rows * columns).div_ceil(Self::BLOCK),
            Self::Int8 => rows,
        }
    }

    /// What the codes of four bits stand for, between -1 and 1.
    pub fn values(self) -> [f32; 16] {
        match self {
            Self::Nf4 | Self::Int8 => NF4,
            Self::Fp4 => FP4.map(|value| value / 12.0),
        }
    }
}

/// The quantiles of `create_normal_map` of bitsandbytes.
const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Values by their bits, times twelve.
const FP4: [f32; 16] = [0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0, -0.0, -0.0625, -8.0, -12.0, -4.0, -6.0, -2.0, -3.0];

/// What the codes of scales stand for, where they are packed too: 256 values between -1 and 1, ascending, dense near zero
/// (Dettmers, "8-bit approximations for parallelism in deep learning"; `create_dynamic_map` of bitsandbytes).
pub fn scale_values() -> &'static [f32; 256] {
    static VALUES: std::sync::OnceLock<[f32; 256]> = std::sync::OnceLock::new();
    VALUES.get_or_init(|| {
        const EXPONENTS: i32 = 7;
        let mut values = vec![0.0, 1.0];
        for exponent in 0..EXPONENTS {
            let (steps, unit) = (1_usize << exponent, 10.0_f64.powi(exponent + 1 - EXPONENTS) as f32);
            // `torch.linspace(0.1, 1, steps + 1)`, which goes from both ends and rounds once.
            let step = (1.0_f32 - 0.1) / steps as f32;
            let bound = |index: usize| {
                if index < steps.div_ceil(2) {
                    step.mul_add(index as f32, 0.1)
                } else {
                    (-step).mul_add((steps - index) as f32, 1.0)
                }
            };
            for index in 0..steps {
                let mean = unit * f32::midpoint(bound(index), bound(index + 1));
                values.extend([mean, -mean]);
            }
        }
        values.sort_unstable_by(f32::total_cmp);
        values.try_into().expect("254 values, zero and one")
    })
}

/// Packed weights, `[rows, columns]`, in a buffer of words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    /// How.
    pub packing: Packing,
    /// Rows.
    pub rows: usize,
    /// Elements of a row.
    pub columns: usize,
    /// First word of the codes, element by element from the lowest byte; of four bits, the first of two has the upper half.
    pub codes: usize,
    /// First word of the scales: an f32 each, or a byte each where they are packed.
    pub scales: usize,
    /// Where they are: the word of the f32 that is added to all scales; behind it those of the blocks of scales.
    pub nested: Option<usize>,
}

impl Packed {
    /// Lays a matrix out from word `start` on; returns the word behind it too.
    pub fn new(packing: Packing, [rows, columns]: [usize; 2], is_nested: bool, start: usize) -> (Self, usize) {
        let scales = start + packing.words(rows * columns);
        let count = packing.scales(rows, columns);
        if !is_nested {
            return (Self { packing, rows, columns, codes: start, scales, nested: None }, scales + count);
        }
        let nested = scales + count.div_ceil(4);
        let end = nested + 1 + count.div_ceil(Packing::NESTED_BLOCK);
        (Self { packing, rows, columns, codes: start, scales, nested: Some(nested) }, end)
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.rows * self.columns
    }

    /// True for a matrix without elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
