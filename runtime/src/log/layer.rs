//! From events to lines.

use std::sync::Arc;

use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::Format;
use super::line::{Fields, Line};
use super::output::Output;
use crate::clock::Clock;

/// Writes one line for each event, with the fields of the spans around it.
pub(super) struct Lines {
    pub(super) format: Format,
    pub(super) source_location: bool,
    pub(super) output: Arc<Output>,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(outer) = span.extensions().get::<Fields>() {
                fields.extend(outer);
            }
        }
        let metadata = event.metadata();
        if self.source_location
            && let (Some(file), Some(line)) = (metadata.file(), metadata.line())
        {
            let file = file.rsplit_once('/').map_or(file, |(_, name)| name);
            fields.insert("file", format!("{file}:{line}"));
            fields.insert("func", metadata.target());
        }
        // The machine's time, also in a simulation: a log is read beside other logs.
        let line = Line {
            time: Clock::system().now(),
            level: *metadata.level(),
            fields,
        };
        self.output.write(&line.render(self.format));
    }
}
