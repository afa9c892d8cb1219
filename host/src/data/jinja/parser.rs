//! Tokens into a tree, by the grammar and the precedence of Jinja2's parser.

use std::sync::Arc;

use super::ast::{Body, Expression, ExpressionKind, For, Macro, Specials, Statement, StatementKind};
use super::error::{Error, Result, error};
use super::lexer::{Kind, Token, tokens};
use super::limits::{ARGUMENTS, SOURCE_DEPTH};

/// The parser's place in the tokens. `expressions.rs` has the half of it that reads expressions.
pub(super) struct Parser {
    tokens: Vec<Token>,
    at: usize,
    /// How deep the nesting is here.
    depth: usize,
    /// Loops around this place within the same macro.
    loops: usize,
    /// Whether an unknown filter or test is an error only where it is reached, as within `{% if %}`.
    pub(super) is_conditional: bool,
    /// Filters and tests that do not exist, in parts that are always reached.
    pub(super) unknown: Vec<Error>,
    /// Special names read since the innermost macro began.
    pub(super) reads: Specials,
}

/// Compiles a template.
pub(super) fn parse(source: &str) -> Result<Body> {
    let tokens = tokens(source)?;
    let mut parser = Parser {
        tokens,
        at: 0,
        depth: 0,
        loops: 0,
        is_conditional: false,
        unknown: Vec::new(),
        reads: Specials::default(),
    };
    let body = parser.statements(&[])?;
    match parser.unknown.into_iter().next() {
        Some(error) => Err(error),
        None => Ok(body),
    }
}

impl Parser {
    pub(super) fn kind(&self) -> &Kind {
        &self.tokens[self.at].kind
    }

    pub(super) fn line(&self) -> u32 {
        self.tokens[self.at].line
    }

    pub(super) fn look(&self) -> &Kind {
        &self.tokens[(self.at + 1).min(self.tokens.len() - 1)].kind
    }

    pub(super) fn next(&mut self) -> Kind {
        let kind = self.kind().clone();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        kind
    }

    pub(super) fn is_operator(&self, operator: &str) -> bool {
        matches!(self.kind(), Kind::Operator(found) if *found == operator)
    }

    pub(super) fn is_name(&self, name: &str) -> bool {
        matches!(self.kind(), Kind::Name(found) if found == name)
    }

    pub(super) fn skip_operator(&mut self, operator: &str) -> bool {
        let found = self.is_operator(operator);
        if found {
            self.next();
        }
        found
    }

    pub(super) fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        if found {
            self.next();
        }
        found
    }

    pub(super) fn expect_operator(&mut self, operator: &str) -> Result<()> {
        if self.skip_operator(operator) { Ok(()) } else { self.fail(&format!("expected `{operator}`")) }
    }

    pub(super) fn expect_name(&mut self) -> Result<Arc<str>> {
        match self.kind() {
            Kind::Name(name) => {
                let name = name.as_str().into();
                self.next();
                Ok(name)
            }
            _ => self.fail("expected a name"),
        }
    }

    /// An error at the current token, which is named.
    pub(super) fn fail<T>(&self, expected: &str) -> Result<T> {
        let found = match self.kind() {
            Kind::Data(_) => "text".to_owned(),
            Kind::VariableBegin => "`{{`".to_owned(),
            Kind::VariableEnd => "`}}`".to_owned(),
            Kind::BlockBegin => "`{%`".to_owned(),
            Kind::BlockEnd => "`%}`".to_owned(),
            Kind::Name(name) => format!("`{name}`"),
            Kind::Text(_) => "a text in quotes".to_owned(),
            Kind::Integer(number) => format!("`{number}`"),
            Kind::Float(number) => format!("`{number}`"),
            Kind::Operator(operator) => format!("`{operator}`"),
            Kind::End => "the end of the template".to_owned(),
        };
        Err(error(format!("{expected}, found {found}")).at(self.line()))
    }

    /// Runs `parse` one level deeper.
    pub(super) fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= SOURCE_DEPTH {
            return Err(error(format!("it nests deeper than {SOURCE_DEPTH} levels")).at(self.line()));
        }
        self.depth += 1;
        let result = parse(self);
        self.depth -= 1;
        result
    }

    /// Statements up to one of the tags in `ends`, which is left as the current token; without any, the whole template.
    fn statements(&mut self, ends: &[&str]) -> Result<Body> {
        let start = self.line();
        let mut body = Body::new();
        loop {
            let line = self.line();
            match self.next() {
                Kind::Data(text) => body.push(Statement { line, kind: StatementKind::Data(text) }),
                Kind::VariableBegin => {
                    let expression = self.tuple(true, &[])?;
                    if self.next() != Kind::VariableEnd {
                        self.at -= 1;
                        return self.fail("expected `}}`");
                    }
                    body.push(Statement { line, kind: StatementKind::Print(expression) });
                }
                Kind::BlockBegin => {
                    if let Kind::Name(name) = self.kind()
                        && ends.contains(&name.as_str())
                    {
                        return Ok(body);
                    }
                    let kind = self.nested(Self::statement)?;
                    self.block_end()?;
                    if let Some(kind) = kind {
                        body.push(Statement { line, kind });
                    }
                }
                _ if ends.is_empty() => return Ok(body),
                _ => {
                    let missing = ends.last().copied().unwrap_or_default();
                    return Err(error(format!("`{{% {missing} %}}` is missing")).at(start));
                }
            }
        }
    }

    fn block_end(&mut self) -> Result<()> {
        if matches!(self.kind(), Kind::BlockEnd) {
            self.next();
            Ok(())
        } else {
            self.fail("expected `%}`")
        }
    }

    /// The body of a tag: from the end of the tag to one of `ends`.
    fn body(&mut self, ends: &[&str]) -> Result<Body> {
        self.skip_operator(":");
        self.block_end()?;
        self.statements(ends)
    }

    /// The body of a tag whose only end is `end`.
    fn body_to(&mut self, end: &str) -> Result<Body> {
        let body = self.body(&[end])?;
        self.next();
        Ok(body)
    }

    /// A body in a scope of its own, where unknown filters are errors at once.
    fn scoped<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let before = std::mem::replace(&mut self.is_conditional, false);
        let result = parse(self);
        self.is_conditional = before;
        result
    }

    /// A body that is a function of its own, out of which no `{% break %}` leads.
    fn function<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let before = std::mem::take(&mut self.loops);
        let result = self.scoped(parse);
        self.loops = before;
        result
    }

    fn statement(&mut self) -> Result<Option<StatementKind>> {
        let Kind::Name(tag) = self.kind().clone() else { return self.fail("expected the name of a tag") };
        let line = self.line();
        self.next();
        Ok(Some(match tag.as_str() {
            "for" => StatementKind::For(Arc::new(self.for_loop()?)),
            "if" => self.if_statement()?,
            "set" => self.set()?,
            "with" => self.with()?,
            "print" => return self.print().map(Some),
            "macro" => {
                let name = self.expect_name()?;
                let signature = self.signature()?;
                StatementKind::Macro(self.macro_of(name, signature, "endmacro")?)
            }
            "call" => self.call_block()?,
            "filter" => {
                let filter = self.filter(None)?;
                let filter = self.filters(filter)?;
                StatementKind::FilterBlock(filter, self.scoped(|parser| parser.body_to("endfilter"))?)
            }
            "generation" => StatementKind::Generation(self.function(|parser| parser.body_to("endgeneration"))?),
            "break" | "continue" if self.loops == 0 => {
                return Err(error(format!("`{{% {tag} %}}` stands outside of a loop")).at(line));
            }
            "break" => StatementKind::Break,
            "continue" => StatementKind::Continue,
            "autoescape" | "block" | "extends" | "include" | "import" | "from" => {
                return Err(error(format!("`{{% {tag} %}}` is not supported in chat templates")).at(line));
            }
            _ => return Err(error(format!("unknown tag `{tag}`")).at(line)),
        }))
    }

    fn for_loop(&mut self) -> Result<For> {
        let target = self.target(&["in"], false)?;
        if !self.skip_name("in") {
            return self.fail("expected `in`");
        }
        let over = self.tuple(false, &["recursive"])?;
        let test = if self.skip_name("if") { Some(self.expression()?) } else { None };
        let recursive = self.skip_name("recursive");
        self.loops += 1;
        let body = self.scoped(|parser| parser.body(&["else", "endfor"]));
        self.loops -= 1;
        let body = body?;
        let otherwise = if self.next() == Kind::Name("else".into()) {
            self.scoped(|parser| parser.body_to("endfor"))?
        } else {
            Body::new()
        };
        Ok(For { target, over, test, body, otherwise, recursive })
    }

    fn if_statement(&mut self) -> Result<StatementKind> {
        let before = std::mem::replace(&mut self.is_conditional, true);
        let mut branches = Vec::new();
        loop {
            let test = self.tuple(false, &[])?;
            let body = self.body(&["elif", "else", "endif"])?;
            branches.push((test, body));
            match self.next() {
                Kind::Name(name) if name == "elif" => {}
                Kind::Name(name) if name == "else" => {
                    let otherwise = self.body_to("endif")?;
                    self.is_conditional = before;
                    return Ok(StatementKind::If(branches, otherwise));
                }
                _ => {
                    self.is_conditional = before;
                    return Ok(StatementKind::If(branches, Body::new()));
                }
            }
        }
    }

    fn set(&mut self) -> Result<StatementKind> {
        let target = self.target(&[], true)?;
        if self.skip_operator("=") {
            return Ok(StatementKind::Set(target, self.tuple(true, &[])?));
        }
        let filter = if self.skip_operator("|") {
            let filter = self.filter(None)?;
            Some(self.filters(filter)?)
        } else {
            None
        };
        Ok(StatementKind::SetBlock(target, filter, self.scoped(|parser| parser.body_to("endset"))?))
    }

    fn with(&mut self) -> Result<StatementKind> {
        let mut values = Vec::new();
        while !matches!(self.kind(), Kind::BlockEnd) {
            if !values.is_empty() {
                self.expect_operator(",")?;
            }
            let target = self.target(&[], false)?;
            self.expect_operator("=")?;
            values.push((target, self.expression()?));
        }
        Ok(StatementKind::With(values, self.scoped(|parser| parser.body_to("endwith"))?))
    }

    fn print(&mut self) -> Result<StatementKind> {
        let expression = self.expression()?;
        if self.is_operator(",") {
            return self.fail("`{% print %}` takes one expression");
        }
        Ok(StatementKind::Print(expression))
    }

    /// Parameters in parentheses, and the defaults of the last ones.
    fn signature(&mut self) -> Result<(Vec<Arc<str>>, Vec<Expression>)> {
        let (mut parameters, mut defaults) = (Vec::new(), Vec::new());
        self.expect_operator("(")?;
        while !self.is_operator(")") {
            if !parameters.is_empty() {
                self.expect_operator(",")?;
            }
            let parameter = self.expect_name()?;
            if parameters.contains(&parameter) {
                return self.fail(&format!("the parameter `{parameter}` is there twice"));
            }
            if parameters.len() >= ARGUMENTS {
                return self.fail(&format!("a macro has more than {ARGUMENTS} parameters"));
            }
            parameters.push(parameter);
            if self.skip_operator("=") {
                defaults.push(self.expression()?);
            } else if !defaults.is_empty() {
                return self.fail("a parameter without a default follows one with a default");
            }
        }
        self.next();
        Ok((parameters, defaults))
    }

    fn macro_of(
        &mut self,
        name: Arc<str>,
        (parameters, defaults): (Vec<Arc<str>>, Vec<Expression>),
        end: &str,
    ) -> Result<Arc<Macro>> {
        let before = std::mem::take(&mut self.reads);
        let body = self.function(|parser| parser.body_to(end))?;
        let reads = self.reads;
        // A name that an inner macro reads is read by the outer one too.
        self.reads = Specials {
            caller: before.caller || reads.caller,
            kwargs: before.kwargs || reads.kwargs,
            varargs: before.varargs || reads.varargs,
        };
        Ok(Arc::new(Macro { name, parameters, defaults, body, reads }))
    }

    fn call_block(&mut self) -> Result<StatementKind> {
        let signature = if self.is_operator("(") { self.signature()? } else { (Vec::new(), Vec::new()) };
        let line = self.line();
        let call = self.expression()?;
        if !matches!(call.kind, ExpressionKind::Call(..)) {
            return Err(error("`{% call %}` takes a call").at(line));
        }
        Ok(StatementKind::CallBlock(call, self.macro_of("caller".into(), signature, "endcall")?))
    }
}
