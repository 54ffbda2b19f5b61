"""Files from servers: resumed at the byte, checked, recorded, whatever they are."""
