*�

systems

	developerd
#
	assistantar"cf"{"a": 1}

toolt*c2f

useré🙂;{"type":"function","function":{"name":"f","parameters":{}}} Rbstop 