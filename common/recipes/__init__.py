"""Steps that make inputs which several replications read: corpora and the model of scale smoke."""
