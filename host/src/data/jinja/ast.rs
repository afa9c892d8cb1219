//! A template as a tree. Parts that values refer to (macros, recursive loops) are shared, so that a value may outlive a call.

use std::sync::Arc;

/// An expression and its line.
#[derive(Debug)]
pub(super) struct Expression {
    pub(super) line: u32,
    /// Levels of expressions below this one.
    pub(super) depth: usize,
    pub(super) kind: ExpressionKind,
}

/// What an expression is.
#[derive(Debug)]
pub(super) enum ExpressionKind {
    Constant(Constant),
    Name(Arc<str>),
    List(Vec<Expression>),
    Tuple(Vec<Expression>),
    Dict(Vec<(Expression, Expression)>),
    /// `of.name`
    Attribute(Box<Expression>, Arc<str>),
    /// `of[key]`
    Item(Box<Expression>, Box<Expression>),
    /// `of[start:stop:step]`
    Slice(Box<Expression>, Box<[Option<Expression>; 3]>),
    Call(Box<Expression>, Arguments),
    /// Without an operand in `{% filter %}` and `{% set x | filter %}`: the text of the block.
    Filter(Option<Box<Expression>>, Arc<str>, Arguments),
    Test(Box<Expression>, Arc<str>, Arguments),
    Not(Box<Expression>),
    Negative(Box<Expression>),
    Positive(Box<Expression>),
    Binary(Operator, Box<Expression>, Box<Expression>),
    And(Vec<Expression>),
    Or(Vec<Expression>),
    /// `a < b <= c`
    Compare(Box<Expression>, Vec<(Comparison, Expression)>),
    /// `a ~ b ~ c`
    Concat(Vec<Expression>),
    /// `then if test else otherwise`
    If(Box<Expression>, Box<Expression>, Option<Box<Expression>>),
}

/// A literal.
#[derive(Debug)]
pub(super) enum Constant {
    None,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(Arc<str>),
}

/// An operator between two values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Modulo,
    Power,
}

/// A comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    NotIn,
}

/// What a call gives.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    pub(super) positional: Vec<Expression>,
    pub(super) named: Vec<(Arc<str>, Expression)>,
    /// `*list`
    pub(super) list: Option<Box<Expression>>,
    /// `**dict`
    pub(super) dict: Option<Box<Expression>>,
}

/// Statements in order.
pub(super) type Body = Vec<Statement>;

/// A statement and its line.
#[derive(Debug)]
pub(super) struct Statement {
    pub(super) line: u32,
    pub(super) kind: StatementKind,
}

/// What a statement is.
#[derive(Debug)]
pub(super) enum StatementKind {
    Data(String),
    /// `{{ … }}`
    Print(Expression),
    /// Tests with their bodies, and the body of `else`.
    If(Vec<(Expression, Body)>, Body),
    For(Arc<For>),
    Set(Target, Expression),
    /// `{% set x | filters %}…{% endset %}`
    SetBlock(Target, Option<Expression>, Body),
    With(Vec<(Target, Expression)>, Body),
    /// `{% filter … %}…{% endfilter %}`
    FilterBlock(Expression, Body),
    Macro(Arc<Macro>),
    /// The call, whose expression is an [`ExpressionKind::Call`], and what `caller` is.
    CallBlock(Expression, Arc<Macro>),
    /// `{% generation %}`: the body is a scope of its own.
    Generation(Body),
    Break,
    Continue,
}

/// A loop.
#[derive(Debug)]
pub(super) struct For {
    pub(super) target: Target,
    pub(super) over: Expression,
    pub(super) test: Option<Expression>,
    pub(super) body: Body,
    pub(super) otherwise: Body,
    pub(super) recursive: bool,
}

/// What is assigned to.
#[derive(Debug)]
pub(super) enum Target {
    Name(Arc<str>),
    /// `namespace.name`
    Attribute(Arc<str>, Arc<str>),
    Tuple(Vec<Target>),
}

/// A macro, or the body of `{% call %}`.
#[derive(Debug)]
pub(super) struct Macro {
    pub(super) name: Arc<str>,
    pub(super) parameters: Vec<Arc<str>>,
    /// Defaults of the last parameters.
    pub(super) defaults: Vec<Expression>,
    pub(super) body: Body,
    /// Which of the special names the body reads.
    pub(super) reads: Specials,
}

/// Special names that a macro may read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Specials {
    pub(super) caller: bool,
    pub(super) kwargs: bool,
    pub(super) varargs: bool,
}
