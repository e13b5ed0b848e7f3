//! [`Planned`]: what is made for batches with some columns.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::SchemaRef;

/// What is made when the columns of a stage's input are known, and again if they change.
pub(super) struct Planned<T> {
    known: Mutex<Option<(SchemaRef, Arc<T>)>>,
}

impl<T> Default for Planned<T> {
    fn default() -> Self {
        Self { known: Mutex::new(None) }
    }
}

impl<T> Planned<T> {
    /// # Errors
    /// That of `make`.
    pub(super) fn of<E>(&self, columns: &SchemaRef, make: impl FnOnce() -> Result<T, E>) -> Result<Arc<T>, E> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, made)) = &*known
            && of == columns
        {
            return Ok(Arc::clone(made));
        }
        let made = Arc::new(make()?);
        *known = Some((Arc::clone(columns), Arc::clone(&made)));
        Ok(made)
    }
}
