"""From a folder of labelled videos to a model that can be trusted: `counterpoint learn`."""
