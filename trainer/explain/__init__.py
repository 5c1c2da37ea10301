"""Why a trained model decides as it does, and whether the explanation can be believed."""
