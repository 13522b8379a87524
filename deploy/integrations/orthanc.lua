-- Orthanc sends every CT series that is stable to n2q-edge; results come back by C-STORE and stay.
-- orthanc.json: "LuaScripts": ["/etc/orthanc/n2q-edge.lua"],
--               "DicomModalities": {"n2q": ["N2Q-EDGE", "127.0.0.1", 11112]}
-- A late slice makes the series stable a second time and all of it is sent again: n2q-edge knows the slices it
-- has, and makes a second result of what is new. RestApiPost is used because SendToModality takes no series.
function OnStableSeries(seriesId, tags, metadata)
   if tags['Modality'] == 'CT' then
      RestApiPost('/modalities/n2q/store', seriesId)
   end
end
